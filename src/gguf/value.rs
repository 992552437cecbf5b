//! Values of metadata: thirteen kinds, of which one is an array of another.

macro_rules! scalars {
    ($($(#[$doc:meta])* $variant:ident($type:ty) = $code:literal;)*) => {
        /// A value of the metadata.
        #[derive(Debug, Clone, PartialEq)]
        pub enum Value {
            $($(#[$doc])* $variant($type),)*
            /// Many of one kind.
            Array(Array),
        }

        /// Values of one kind.
        #[derive(Debug, Clone, PartialEq)]
        pub enum Array {
            $($(#[$doc])* $variant(Vec<$type>),)*
        }

        impl Value {
            /// Returns GGUF's number for the kind.
            pub(super) const fn code(&self) -> u32 {
                match self { $(Self::$variant(_) => $code,)* Self::Array(_) => Array::CODE }
            }
        }

        impl Array {
            /// Returns GGUF's number for the kind of the items.
            pub(super) const fn code(&self) -> u32 {
                match self { $(Self::$variant(_) => $code),* }
            }

            /// Returns how many items there are.
            pub fn len(&self) -> usize {
                match self { $(Self::$variant(items) => items.len()),* }
            }

            /// Tells whether there are no items.
            pub fn is_empty(&self) -> bool {
                self.len() == 0
            }
        }
    };
}

scalars! {
    /// 8 bits, unsigned.
    U8(u8) = 0;
    /// 8 bits, signed.
    I8(i8) = 1;
    /// 16 bits, unsigned.
    U16(u16) = 2;
    /// 16 bits, signed.
    I16(i16) = 3;
    /// 32 bits, unsigned.
    U32(u32) = 4;
    /// 32 bits, signed.
    I32(i32) = 5;
    /// 32-bit float.
    F32(f32) = 6;
    /// True or false.
    Bool(bool) = 7;
    /// Text. Bytes that are not UTF-8 are shown as U+FFFD: some old vocabularies hold such.
    Text(String) = 8;
    /// 64 bits, unsigned.
    U64(u64) = 10;
    /// 64 bits, signed.
    I64(i64) = 11;
    /// 64-bit float.
    F64(f64) = 12;
}

impl Array {
    pub(super) const CODE: u32 = 9;

    /// Returns whole numbers that are not negative, of whatever width they were stored in.
    pub fn as_u64s(&self) -> Option<Vec<u64>> {
        match self {
            Self::U8(items) => Some(items.iter().map(|n| u64::from(*n)).collect()),
            Self::U16(items) => Some(items.iter().map(|n| u64::from(*n)).collect()),
            Self::U32(items) => Some(items.iter().map(|n| u64::from(*n)).collect()),
            Self::U64(items) => Some(items.clone()),
            Self::I8(items) => items.iter().map(|n| u64::try_from(*n).ok()).collect(),
            Self::I16(items) => items.iter().map(|n| u64::try_from(*n).ok()).collect(),
            Self::I32(items) => items.iter().map(|n| u64::try_from(*n).ok()).collect(),
            Self::I64(items) => items.iter().map(|n| u64::try_from(*n).ok()).collect(),
            _ => None,
        }
    }
}

impl Value {
    /// Returns a whole number that is not negative, of whatever width it was stored in.
    pub fn as_u64(&self) -> Option<u64> {
        match *self {
            Self::U8(n) => Some(n.into()),
            Self::U16(n) => Some(n.into()),
            Self::U32(n) => Some(n.into()),
            Self::U64(n) => Some(n),
            Self::I8(n) => n.try_into().ok(),
            Self::I16(n) => n.try_into().ok(),
            Self::I32(n) => n.try_into().ok(),
            Self::I64(n) => n.try_into().ok(),
            _ => None,
        }
    }

    /// Returns the text.
    pub fn as_str(&self) -> Option<&str> {
        if let Self::Text(text) = self { Some(text) } else { None }
    }

    /// Returns a float of either width.
    pub fn as_f64(&self) -> Option<f64> {
        match *self {
            Self::F32(x) => Some(x.into()),
            Self::F64(x) => Some(x),
            _ => None,
        }
    }

    /// Returns the truth value.
    pub fn as_bool(&self) -> Option<bool> {
        if let Self::Bool(is) = *self { Some(is) } else { None }
    }

    /// Returns the array.
    pub fn as_array(&self) -> Option<&Array> {
        if let Self::Array(array) = self { Some(array) } else { None }
    }
}

impl From<u32> for Value {
    fn from(number: u32) -> Self {
        Self::U32(number)
    }
}
impl From<f32> for Value {
    fn from(number: f32) -> Self {
        Self::F32(number)
    }
}
impl From<bool> for Value {
    fn from(is: bool) -> Self {
        Self::Bool(is)
    }
}
impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}
impl From<String> for Value {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}
impl From<Vec<String>> for Value {
    fn from(items: Vec<String>) -> Self {
        Self::Array(Array::Text(items))
    }
}
impl From<Vec<i32>> for Value {
    fn from(items: Vec<i32>) -> Self {
        Self::Array(Array::I32(items))
    }
}
impl From<Vec<f32>> for Value {
    fn from(items: Vec<f32>) -> Self {
        Self::Array(Array::F32(items))
    }
}
