"""How dates are written on all pages: the one style that everybody reads the same way."""
