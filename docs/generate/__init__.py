"""Makes what the site is built from: the pages of docs/ and around it, with the parts that the code itself tells."""
