"""One paid answer: admission, the stream and its payment, the receipt."""
