"""Works and adapters: licenses, registrations, publishing."""
