"""What a trial leaves on storage: saved states and result bundles."""
