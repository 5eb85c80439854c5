"""License works: relay what creators sign, acquire grants, show licenses, open licensed works."""
