package wire

import (
	"encoding/binary"
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"
)

// Error codes (RFC 4271 section 4.5).
const (
	CodeHeader    = 1
	CodeOpen      = 2
	CodeUpdate    = 3
	CodeHoldTimer = 4
	CodeFSM       = 5
	CodeCease     = 6
	// CodeRouteRefresh is RFC 7313's, CodeSendHold RFC 9687's.
	CodeRouteRefresh = 7
	CodeSendHold     = 8
)

// Subcodes of CodeOpen (RFC 4271 section 4.5, RFC 5492).
const (
	OpenVersion    = 1
	OpenPeerAS     = 2
	OpenIdentifier = 3
	OpenParameter  = 4
	OpenHoldTime   = 6
	OpenCapability = 7
	OpenRole       = 11
)

// Subcodes of CodeCease (RFC 4486, RFC 8538, RFC 9003, RFC 9384).
const (
	CeasePrefixes      = 1
	CeaseShutdown      = 2
	CeaseDeconfigured  = 3
	CeaseReset         = 4
	CeaseRejected      = 5
	CeaseConfiguration = 6
	CeaseHardReset     = 9
	CeaseBFDDown       = 10
)

// A Notification is a NOTIFICATION message.
type Notification struct {
	Code, Subcode uint8
	Data          []byte
}

// An Error is a message that is not well formed, or not acceptable, together
// with the NOTIFICATION that says so to its sender.
type Error struct {
	Code, Subcode uint8
	Data          []byte
	// Text says it to people.
	Text string
	// Mute is set where nothing may be answered: a NOTIFICATION that is not well formed
	// (RFC 4271 section 6.4).
	Mute bool
}

// Error returns Text.
func (e *Error) Error() string { return e.Text }

// Notification returns the message to answer with.
func (e *Error) Notification() Notification {
	return Notification{Code: e.Code, Subcode: e.Subcode, Data: e.Data}
}

// ParseNotification parses the body of a NOTIFICATION.
func ParseNotification(body []byte) (Notification, error) {
	if len(body) < 2 {
		return Notification{}, &Error{Code: CodeHeader, Subcode: 2, Text: fmt.Sprintf("NOTIFICATION with a body of %d octets", len(body)), Mute: true}
	}
	return Notification{Code: body[0], Subcode: body[1], Data: slices.Clone(body[2:])}, nil
}

// AppendNotification appends a NOTIFICATION.
func AppendNotification(b []byte, n Notification) []byte {
	return appendMessage(b, TypeNotification, func(b []byte) []byte {
		b = append(b, n.Code, n.Subcode)
		return append(b, n.Data[:min(len(n.Data), MaxLen-HeaderLen-2)]...)
	})
}

// Cease returns a NOTIFICATION of code Cease. The text is sent with the
// subcodes that carry one (RFC 9003), cut to 255 octets at a character.
func Cease(subcode uint8, text string) Notification {
	n := Notification{Code: CodeCease, Subcode: subcode}
	if text == "" || subcode != CeaseShutdown && subcode != CeaseReset {
		return n
	}
	for len(text) > 255 {
		_, size := utf8.DecodeLastRuneInString(text)
		text = text[:len(text)-size]
	}
	n.Data = append([]byte{byte(len(text))}, text...)
	return n
}

var codes = [...]string{CodeHeader: "message header error", CodeOpen: "OPEN error", CodeUpdate: "UPDATE error", CodeHoldTimer: "hold timer expired", CodeFSM: "state machine error", CodeCease: "cease", CodeRouteRefresh: "ROUTE-REFRESH error", CodeSendHold: "send hold timer expired"}

var subcodes = map[[2]uint8]string{
	{CodeHeader, 1}:       "connection not synchronized",
	{CodeHeader, 2}:       "bad message length",
	{CodeHeader, 3}:       "bad message type",
	{CodeOpen, 1}:         "unsupported version number",
	{CodeOpen, 2}:         "bad peer AS",
	{CodeOpen, 3}:         "bad BGP identifier",
	{CodeOpen, 4}:         "unsupported optional parameter",
	{CodeOpen, 6}:         "unacceptable hold time",
	{CodeOpen, 7}:         "unsupported capability",
	{CodeOpen, 11}:        "role mismatch",
	{CodeUpdate, 1}:       "malformed attribute list",
	{CodeUpdate, 2}:       "unrecognized well-known attribute",
	{CodeUpdate, 3}:       "missing well-known attribute",
	{CodeUpdate, 4}:       "attribute flags error",
	{CodeUpdate, 5}:       "attribute length error",
	{CodeUpdate, 6}:       "invalid ORIGIN",
	{CodeUpdate, 8}:       "invalid NEXT_HOP",
	{CodeUpdate, 9}:       "optional attribute error",
	{CodeUpdate, 10}:      "invalid network field",
	{CodeUpdate, 11}:      "malformed AS_PATH",
	{CodeRouteRefresh, 1}: "invalid message length",
	{CodeFSM, 1}:          "unexpected message in OpenSent",
	{CodeFSM, 2}:          "unexpected message in OpenConfirm",
	{CodeFSM, 3}:          "unexpected message in Established",
	{CodeCease, 1}:        "maximum number of prefixes reached",
	{CodeCease, 2}:        "administrative shutdown",
	{CodeCease, 3}:        "peer de-configured",
	{CodeCease, 4}:        "administrative reset",
	{CodeCease, 5}:        "connection rejected",
	{CodeCease, 6}:        "other configuration change",
	{CodeCease, 7}:        "connection collision resolution",
	{CodeCease, 8}:        "out of resources",
	{CodeCease, 9}:        "hard reset",
	{CodeCease, 10}:       "BFD down",
}

// String returns the notification in words, with the sender's own when it sent
// any.
func (n Notification) String() string {
	s := fmt.Sprintf("code %d", n.Code)
	if n.Code > 0 && int(n.Code) < len(codes) {
		s = codes[n.Code]
	}
	if sub, ok := subcodes[[2]uint8{n.Code, n.Subcode}]; ok {
		s += ": " + sub
	} else if n.Subcode != 0 {
		s += fmt.Sprintf(": subcode %d", n.Subcode)
	}
	if more := n.dataText(); more != "" {
		s += ": " + more
	}
	return s
}

// dataText returns what Data says to people; "" when it is nothing, or not well formed.
func (n Notification) dataText() string {
	switch [2]uint8{n.Code, n.Subcode} {
	case [2]uint8{CodeOpen, OpenCapability}:
		return strings.Join(capabilityNames(n.Data), ", ")
	case [2]uint8{CodeCease, CeasePrefixes}: // family and upper bound (RFC 4486 section 4)
		if len(n.Data) == 7 {
			f := Family{binary.BigEndian.Uint16(n.Data), n.Data[2]}
			return fmt.Sprintf("%d of %v", binary.BigEndian.Uint32(n.Data[3:]), f)
		}
	case [2]uint8{CodeCease, CeaseShutdown}, [2]uint8{CodeCease, CeaseReset}: // RFC 9003
		if len(n.Data) > 1 && int(n.Data[0]) <= len(n.Data)-1 {
			return printable(n.Data[1 : 1+int(n.Data[0])])
		}
	case [2]uint8{CodeCease, CeaseHardReset}: // another NOTIFICATION (RFC 8538 section 3)
		if in, err := ParseNotification(n.Data); err == nil && in.Subcode != CeaseHardReset {
			return in.String()
		}
	}
	return ""
}

// MissingFamilies returns the Data of subcode [OpenCapability]: the capabilities that
// are wanted (RFC 5492 section 5).
func MissingFamilies(families []Family) []byte {
	return Open{Capabilities: Capabilities{Families: families}}.appendCapabilities(nil)
}

// capabilityNames puts capabilities in words, a few at most. What is malformed ends
// the list.
func capabilityNames(b []byte) (names []string) {
	const most = 8
	for len(b) >= 2 && int(b[1]) <= len(b)-2 && len(names) < most {
		var c Open
		code, v := b[0], b[2:2+int(b[1])]
		b = b[2+len(v):]
		name := fmt.Sprintf("capability %d", code)
		if c.parseCapability(code, v) {
			if known := c.Names(); len(known) > 0 {
				name = known[0]
			}
		}
		names = append(names, name)
	}
	return names
}
