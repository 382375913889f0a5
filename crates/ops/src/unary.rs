//! What the element-wise operators of one operand share.
