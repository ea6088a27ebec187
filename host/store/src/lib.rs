//! SQLite behind traits that belong to their callers; ciphertext only.
