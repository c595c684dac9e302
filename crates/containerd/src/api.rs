//! The messages of `containerd.services.{events,images,namespaces,content}.v1`, with the tags of
//! containerd's `.proto` files and only the fields that this crate uses.

/// A message whose content is ignored.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Nothing {}

/// `SubscribeRequest`.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Subscribe {
    #[prost(string, repeated, tag = "1")]
    pub(crate) filters: Vec<String>,
}

/// `Envelope`.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Envelope {
    #[prost(string, tag = "2")]
    pub(crate) namespace: String,
    #[prost(string, tag = "3")]
    pub(crate) topic: String,
}

/// `containerd.types.Descriptor`.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Descriptor {
    #[prost(string, tag = "1")]
    pub(crate) media_type: String,
    #[prost(string, tag = "2")]
    pub(crate) digest: String,
    #[prost(int64, tag = "3")]
    pub(crate) size: i64,
}

/// `Image`.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Image {
    #[prost(string, tag = "1")]
    pub(crate) name: String,
    #[prost(message, optional, tag = "3")]
    pub(crate) target: Option<Descriptor>,
}

/// `ListImagesResponse`.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Images {
    #[prost(message, repeated, tag = "1")]
    pub(crate) images: Vec<Image>,
}

/// `Namespace`.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Namespace {
    #[prost(string, tag = "1")]
    pub(crate) name: String,
}

/// `ListNamespacesResponse`.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Namespaces {
    #[prost(message, repeated, tag = "1")]
    pub(crate) namespaces: Vec<Namespace>,
}

/// `ReadContentRequest`.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct ReadContent {
    #[prost(string, tag = "1")]
    pub(crate) digest: String,
    #[prost(int64, tag = "2")]
    pub(crate) offset: i64,
}

/// `ReadContentResponse`.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Content {
    #[prost(bytes = "vec", tag = "2")]
    pub(crate) data: Vec<u8>,
}
