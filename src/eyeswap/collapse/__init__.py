"""Diagnosis of localization collapse: measurements, verdicts, and a study of remedies."""
