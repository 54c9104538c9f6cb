// Package bfd is Bidirectional Forwarding Detection (RFC 5880) as a codec and a
// state machine: octets and the time go in, octets and the time of the next
// event come out. It has no socket, no clock and no randomness of its own, so a
// test can hold a conversation of an hour in a microsecond.
//
// It is the asynchronous mode, authenticated by keyed SHA-1 or not at all, without
// demand mode and the echo function. The paths it can watch are those of RFC 5881 (one hop) and RFC 5883
// (several), which differ for the sockets of internal/bfd/udp alone.
package bfd
