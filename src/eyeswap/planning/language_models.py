"""Sizes of the usual language models, so that an estimate needs neither a network nor their files.

They follow from each model's published ``config.json``; a test builds every one from such a configuration, without
memory, and compares.
"""

from __future__ import annotations

# parameters, those that meet every token in a matrix product, width, layers, positions, rows of the output head
Sizes = tuple[int, int, int, int, int, int]

_BY_SIZES: tuple[tuple[Sizes, tuple[str, ...]], ...] = (
    (
        (6_738_415_616, 6_607_343_616, 4096, 32, 4096, 32_000),
        ("lmsys/vicuna-7b-v1.5", "meta-llama/Llama-2-7b-hf", "meta-llama/Llama-2-7b-chat-hf"),
    ),
    (
        (13_015_864_320, 12_852_024_320, 5120, 40, 4096, 32_000),
        ("lmsys/vicuna-13b-v1.5", "meta-llama/Llama-2-13b-hf", "meta-llama/Llama-2-13b-chat-hf"),
    ),
    (
        (8_030_261_248, 7_504_924_672, 4096, 32, 8192, 128_256),
        ("meta-llama/Meta-Llama-3-8B", "meta-llama/Meta-Llama-3-8B-Instruct"),
    ),
    (
        (8_030_261_248, 7_504_924_672, 4096, 32, 131_072, 128_256),
        ("meta-llama/Llama-3.1-8B", "meta-llama/Llama-3.1-8B-Instruct"),
    ),
    (
        (1_235_814_400, 1_235_814_400, 2048, 16, 131_072, 128_256),
        ("meta-llama/Llama-3.2-1B", "meta-llama/Llama-3.2-1B-Instruct"),
    ),
    (
        (3_212_749_824, 3_212_749_824, 3072, 28, 131_072, 128_256),
        ("meta-llama/Llama-3.2-3B", "meta-llama/Llama-3.2-3B-Instruct"),
    ),
    ((494_032_768, 494_032_768, 896, 24, 32_768, 151_936), ("Qwen/Qwen2.5-0.5B", "Qwen/Qwen2.5-0.5B-Instruct")),
    ((1_543_714_304, 1_543_714_304, 1536, 28, 32_768, 151_936), ("Qwen/Qwen2.5-1.5B-Instruct",)),
    ((1_543_714_304, 1_543_714_304, 1536, 28, 131_072, 151_936), ("Qwen/Qwen2.5-1.5B",)),
    ((3_085_938_688, 3_085_938_688, 2048, 36, 32_768, 151_936), ("Qwen/Qwen2.5-3B", "Qwen/Qwen2.5-3B-Instruct")),
    ((7_615_616_512, 7_070_619_136, 3584, 28, 32_768, 152_064), ("Qwen/Qwen2.5-7B-Instruct",)),
    ((7_615_616_512, 7_070_619_136, 3584, 28, 131_072, 152_064), ("Qwen/Qwen2.5-7B",)),
    ((596_049_920, 596_049_920, 1024, 28, 40_960, 151_936), ("Qwen/Qwen3-0.6B",)),
    ((1_720_574_976, 1_720_574_976, 2048, 28, 40_960, 151_936), ("Qwen/Qwen3-1.7B",)),
    ((4_022_468_096, 4_022_468_096, 2560, 36, 40_960, 151_936), ("Qwen/Qwen3-4B",)),
    ((8_190_735_360, 7_568_405_504, 4096, 36, 40_960, 151_936), ("Qwen/Qwen3-8B",)),
    (
        (7_241_732_096, 7_110_660_096, 4096, 32, 32_768, 32_000),
        ("mistralai/Mistral-7B-v0.1", "mistralai/Mistral-7B-Instruct-v0.2"),
    ),
    (
        (7_248_023_552, 7_113_805_824, 4096, 32, 32_768, 32_768),
        ("mistralai/Mistral-7B-v0.3", "mistralai/Mistral-7B-Instruct-v0.3"),
    ),
    ((2_779_683_840, 2_648_611_840, 2560, 32, 2048, 51_200), ("microsoft/phi-2",)),
    ((3_821_079_552, 3_722_578_944, 3072, 32, 4096, 32_064), ("microsoft/Phi-3-mini-4k-instruct",)),
    ((2_506_172_416, 2_506_172_416, 2048, 18, 8192, 256_000), ("google/gemma-2b", "google/gemma-2b-it")),
    ((2_614_341_888, 2_614_341_888, 2304, 26, 8192, 256_000), ("google/gemma-2-2b", "google/gemma-2-2b-it")),
    ((999_885_952, 999_885_952, 1152, 26, 32_768, 262_144), ("google/gemma-3-1b-pt", "google/gemma-3-1b-it")),
    (
        (134_515_008, 134_515_008, 576, 30, 8192, 49_152),
        ("HuggingFaceTB/SmolLM2-135M", "HuggingFaceTB/SmolLM2-135M-Instruct"),
    ),
    (
        (361_821_120, 361_821_120, 960, 32, 8192, 49_152),
        ("HuggingFaceTB/SmolLM2-360M", "HuggingFaceTB/SmolLM2-360M-Instruct"),
    ),
    (
        (1_711_376_384, 1_711_376_384, 2048, 24, 8192, 49_152),
        ("HuggingFaceTB/SmolLM2-1.7B", "HuggingFaceTB/SmolLM2-1.7B-Instruct"),
    ),
    ((1_100_048_384, 1_034_512_384, 2048, 22, 2048, 32_000), ("TinyLlama/TinyLlama-1.1B-Chat-v1.0",)),
)

SIZES: dict[str, Sizes] = {name: sizes for sizes, names in _BY_SIZES for name in names}
