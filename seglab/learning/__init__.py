"""Layer 2: training as a generator of epochs, inference on the native grid."""
