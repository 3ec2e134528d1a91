"""The database schema's history, packaged so that an installed `sgg` can upgrade its database."""
