"""Entry script for Streamlit (see :mod:`dashboards.serve`)."""

from dashboards.app import main

main()
