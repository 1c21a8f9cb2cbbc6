"""What is drawn and written from finished numbers; computes no training."""
