"""Installation of fairseq_contout, a fairseq plugin. Tools are configured in pyproject.toml."""

from pathlib import Path

from setuptools import find_packages, setup

setup(
    name="fairseq-contout",
    version="0.1.0",
    description="fairseq plugin: sequence models that predict the embedding of the next token",
    long_description=Path(__file__).with_name("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="MIT",
    python_requires=">=3.9",
    packages=find_packages(include=["fairseq_contout", "fairseq_contout.*"]),
    install_requires=[
        # the last release of fairseq itself does not run on Python 3.11
        'fairseq-fixed==0.12.3.1; python_version >= "3.11"',
        'fairseq==0.12.2; python_version < "3.11"',
        "fasttext>=0.9.2,<0.10",
        "numpy>=1.21.3",
        "sacrebleu>=2.0,<3",
        "sacremoses>=0.0.53",
        "safetensors>=0.4",
        "scipy>=1.7",  # preprocess/align_tables.py
        "sentencepiece>=0.1.97",
        "subword-nmt>=0.3.8,<0.4",
        "torch>=2.0,<3",
        "tqdm>=4.60",
    ],
    extras_require={
        "test": [
            "faiss-cpu>=1.7.4",
            "matplotlib>=3.5",
            "mpmath>=1.3",
            "packaging>=21",
            "pytest>=7",
            "pytest-xdist>=3",
            "ruff>=0.5",
        ],
        "faiss": ["faiss-cpu>=1.7.4"],  # --knn-search hnsw, ivf and ivfpq
        "benchmarks": [
            "gensim>=4.2",  # benchmarks/word_similarity.py
            "matplotlib>=3.5",
            "mpmath>=1.3",  # benchmarks/vmf_cost.py
        ],
        "corpus": ["pysword>=0.2.8"],  # only to extract the bundled corpus anew
    },
)
