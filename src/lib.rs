//! Bramble: one manifest names models and hosts; this library decides what runs
//! where, and does it. The map of the house; ARCHITECTURE.md says who may use whom.

// words
pub mod causes;
pub mod clock;
pub mod events;
pub mod generation;
pub mod ids;
pub mod lines;
pub mod notify;
pub mod pace;
pub mod source;
pub mod system;
pub mod terminal;
pub mod units;

// formats
pub mod authority;
pub mod checkpoint;
pub mod convert;
pub mod gguf;
pub mod openai;
pub mod quant;
pub mod signature;
pub mod yaml;

// deciders
pub mod catalog;
pub mod doctor;
pub mod draft;
pub mod estimate;
pub mod facts;
pub mod fit;
pub mod lock;
pub mod manifest;
pub mod placement;
pub mod plan;
pub mod sdcard;
pub mod tune;
pub mod unit;

// doors
pub mod airgap;
pub mod bundle;
pub mod confine;
pub mod connect;
pub mod discover;
pub mod fetch;
pub mod store;
pub mod vitals;

// doers
pub mod bench;
pub mod execute;
pub mod install;
pub mod keys;
pub mod lease;
pub mod live;
pub mod probe;
pub mod transfer;
pub mod weights;

// daemons
pub mod engine;
pub mod page;
pub mod route;

// faces
pub mod cli;
pub mod status;
pub mod ui;
pub mod view;
