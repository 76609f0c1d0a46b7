//! volume-io
