//! node-io
