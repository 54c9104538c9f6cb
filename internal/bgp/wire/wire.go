// Package wire is the BGP-4 message codec of a speaker that announces routes
// and uses none (RFC 4271): headers, OPEN with its capabilities, NOTIFICATION,
// KEEPALIVE, ROUTE-REFRESH, and of an UPDATE the prefixes alone.
//
// It is the only code that reads what a router sends. Each length is checked
// before it is believed, nothing is allocated in proportion to a length field,
// and every parser is fuzzed. A message that is not well formed comes back as an
// [Error], which is the NOTIFICATION to answer it with.
package wire

import (
	"encoding/binary"
	"fmt"
	"slices"
)

// HeaderLen is the length of a message header (RFC 4271 section 4.1).
const HeaderLen = 19

// MaxLen is the greatest length of a message, header included. We do not offer
// extended messages (RFC 8654).
const MaxLen = 4096

// A Type is a message type.
type Type uint8

// Message types (RFC 4271 section 4.1, RFC 2918).
const (
	TypeOpen         Type = 1
	TypeUpdate       Type = 2
	TypeNotification Type = 3
	TypeKeepalive    Type = 4
	TypeRouteRefresh Type = 5
)

// String returns the RFC's name.
func (t Type) String() string {
	switch t {
	case TypeOpen:
		return "OPEN"
	case TypeUpdate:
		return "UPDATE"
	case TypeNotification:
		return "NOTIFICATION"
	case TypeKeepalive:
		return "KEEPALIVE"
	case TypeRouteRefresh:
		return "ROUTE-REFRESH"
	default:
		return fmt.Sprintf("type %d", uint8(t))
	}
}

// minLen is the least length of each type of message, header included.
var minLen = [...]int{TypeOpen: 29, TypeUpdate: 23, TypeNotification: 21, TypeKeepalive: 19, TypeRouteRefresh: 23}

// ParseHeader checks a header and returns the type and the length of the body
// that follows it.
func ParseHeader(h [HeaderLen]byte) (Type, int, error) {
	for _, b := range h[:16] {
		if b != 0xff {
			return 0, 0, &Error{Code: CodeHeader, Subcode: 1, Text: "the marker is not all ones"}
		}
	}
	n, t := int(binary.BigEndian.Uint16(h[16:])), Type(h[18])
	if t == 0 || int(t) >= len(minLen) {
		return 0, 0, &Error{Code: CodeHeader, Subcode: 3, Data: []byte{byte(t)}, Text: fmt.Sprintf("unknown message type %d", t)}
	}
	// KEEPALIVE has no body; ROUTE-REFRESH has one of four octets, but for the
	// outbound filters that we do not offer.
	if n < minLen[t] || n > MaxLen || n != minLen[t] && (t == TypeKeepalive || t == TypeRouteRefresh) {
		return 0, 0, &Error{Code: CodeHeader, Subcode: 2, Data: slices.Clone(h[16:18]), Text: fmt.Sprintf("%v of %d octets", t, n), Mute: t == TypeNotification}
	}
	return t, n - HeaderLen, nil
}

// appendMessage appends a header and lets body append what follows it.
func appendMessage(b []byte, t Type, body func([]byte) []byte) []byte {
	at := len(b)
	for range 16 {
		b = append(b, 0xff)
	}
	b = append(b, 0, 0, byte(t))
	b = body(b)
	binary.BigEndian.PutUint16(b[at+16:], uint16(len(b)-at))
	return b
}

// Count returns how many whole messages b is.
func Count(b []byte) (n uint64) {
	for ; len(b) >= HeaderLen; n++ {
		b = b[min(len(b), max(HeaderLen, int(binary.BigEndian.Uint16(b[16:])))):]
	}
	return n
}

// AppendKeepalive appends a KEEPALIVE.
func AppendKeepalive(b []byte) []byte {
	return appendMessage(b, TypeKeepalive, func(b []byte) []byte { return b })
}

// AppendRouteRefresh appends a ROUTE-REFRESH for a family.
func AppendRouteRefresh(b []byte, f Family) []byte {
	return appendMessage(b, TypeRouteRefresh, func(b []byte) []byte {
		b = binary.BigEndian.AppendUint16(b, f.AFI)
		return append(b, 0, f.SAFI)
	})
}

// ParseRouteRefresh returns the family of a ROUTE-REFRESH. Ordinary is false
// for the demarcations of RFC 7313, which ask for nothing.
func ParseRouteRefresh(body []byte) (f Family, ordinary bool, err error) {
	if len(body) != 4 {
		return Family{}, false, &Error{Code: CodeHeader, Subcode: 2, Text: fmt.Sprintf("ROUTE-REFRESH with a body of %d octets", len(body))}
	}
	return Family{AFI: binary.BigEndian.Uint16(body), SAFI: body[3]}, body[2] == 0, nil
}

// AppendEndOfRIB appends the UPDATE that marks the end of a family's first
// table (RFC 4724 section 2).
func AppendEndOfRIB(b []byte, f Family) []byte {
	return appendMessage(b, TypeUpdate, func(b []byte) []byte {
		if f == IPv4Unicast {
			return append(b, 0, 0, 0, 0)
		}
		b = append(b, 0, 0, 0, 6, flagOptional, attrMPUnreach, 3)
		b = binary.BigEndian.AppendUint16(b, f.AFI)
		return append(b, f.SAFI)
	})
}

// A Family is an address family and its subsequent identifier.
type Family struct {
	AFI  uint16
	SAFI uint8
}

// The families that we announce.
var (
	IPv4Unicast = Family{AFI: afiIPv4, SAFI: safiUnicast}
	IPv6Unicast = Family{AFI: afiIPv6, SAFI: safiUnicast}
)

const (
	afiIPv4, afiIPv6 = 1, 2
	safiUnicast      = 1
)

// String returns "ipv4-unicast", "ipv6-unicast" or the numbers.
func (f Family) String() string {
	switch f {
	case IPv4Unicast:
		return "ipv4-unicast"
	case IPv6Unicast:
		return "ipv6-unicast"
	default:
		return fmt.Sprintf("afi-%d/safi-%d", f.AFI, f.SAFI)
	}
}
