"""The Streamlit app and the report: they read run folders, and never load torch."""
