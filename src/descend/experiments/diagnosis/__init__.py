"""A diagnosis of trained weights: curvature, sharpness and landscape, each instrument a file of jobs that are kept."""
