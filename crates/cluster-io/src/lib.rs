//! cluster-io
