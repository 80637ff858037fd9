//! Decides for dns: records, merging, choice of answers.
