"""Who owns which feed; its frames read in order; batches across feeds; entries made pictures."""
