//! Decides for the Docker API proxy: rewriting, eligibility, the attach workflow.
