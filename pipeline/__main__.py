"""`python -m pipeline VERB …`."""

from pipeline.main import main

if __name__ == "__main__":
    main()
