"""Networks: multilayer perceptrons, monotone functions and invertible layers."""
