"""Ground floor of recrl: contracts, errors, random streams, ragged arrays, run folders. Never imports torch."""
