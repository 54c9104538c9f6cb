// Package strict is the strictest router there could be, for tests.
//
// It knows nothing but the two OPENs of a session, and refuses whatever the RFCs let
// a receiver refuse: what was not agreed on, and every form that a sender SHALL or
// SHOULD NOT use, however many routers put up with it (RFC 4271 sections 4 and 6,
// RFC 4760, RFC 5492, RFC 6608, RFC 6793, RFC 7606 section 5.1, RFC 7607, RFC 8950, RFC 9003,
// RFC 9234).
// What it accepts, it keeps in a table.
//
// It shares no code with the codec that it judges, so that a mistake would have to be
// made twice.
package strict

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"unicode/utf8"
)

// A Route is what a router was told of a prefix.
type Route struct {
	NextHop netip.Addr
	// Path are the AS numbers, those of AS4_PATH in the place of AS_TRANS.
	Path []uint32
	// LocalPref and MED are -1 when absent.
	LocalPref, MED int64
	// Communities, Extended, Large are the values of those attributes.
	Communities, Extended, Large string
	// OnlyToCustomers is the AS of RFC 9234, 0 when absent.
	OnlyToCustomers uint32
}

// A Receiver is the router's end of one session.
type Receiver struct {
	// Routes is what it was told and has not been told to forget.
	Routes map[netip.Prefix]Route
	// Ends are the families whose end of RIB it was told, in order.
	Ends []Family
	// Notified is the NOTIFICATION that ended the session, code and subcode first.
	Notified []byte
	// Loopback lets next hops be on loopback, for a session that is.
	Loopback bool
	// Updates and Keepalives count messages; Withdrawals counts prefixes.
	Updates, Keepalives, Withdrawals int

	own, sender open
	state       state
	buffer      []byte
}

// A Family is an address family and its subsequent identifier.
type Family struct {
	AFI  uint16
	SAFI uint8
}

// Families of unicast.
var (
	IPv4 = Family{1, 1}
	IPv6 = Family{2, 1}
)

type state uint8

const (
	openSent state = iota
	openConfirm
	established
	ended
)

// headerLen and maxLen are the length of a header and of the longest message.
const headerLen, maxLen = 19, 4096

// New returns the end of a router that sends this OPEN, header included.
func New(own []byte) (*Receiver, error) {
	r := &Receiver{Routes: map[netip.Prefix]Route{}}
	if len(own) < headerLen {
		return nil, errors.New("no OPEN of the router's")
	}
	var err error
	r.own, err = parseOpen(own[headerLen:])
	return r, err
}

// Read takes what the sender wrote, cut anywhere, and returns why the router would
// end the session.
func (r *Receiver) Read(b []byte) error {
	r.buffer = append(r.buffer, b...)
	for len(r.buffer) >= headerLen {
		h := r.buffer[:headerLen]
		for _, m := range h[:16] {
			if m != 0xff {
				return errors.New("1/1: the marker is not all ones")
			}
		}
		n := int(binary.BigEndian.Uint16(h[16:]))
		if n < headerLen || n > maxLen {
			return fmt.Errorf("1/2: a message of %d octets", n)
		}
		if len(r.buffer) < n {
			return nil
		}
		typ, body := h[18], slices.Clone(r.buffer[headerLen:n])
		r.buffer = r.buffer[n:]
		if err := r.message(typ, body); err != nil {
			return fmt.Errorf("%w in message %d of %x", err, typ, body)
		}
	}
	return nil
}

// Established reports whether the sender has confirmed the session.
func (r *Receiver) Established() bool { return r.state == established }

// carries reports whether both OPENs have a family. Without the capability of
// RFC 4760, IPv4 unicast is meant.
func (r *Receiver) carries(f Family) bool {
	return slices.Contains(r.own.families(), f) && slices.Contains(r.sender.families(), f)
}

// multiprotocol reports whether both OPENs name a family, without which there is no
// MP_REACH_NLRI of it.
func (r *Receiver) multiprotocol(f Family) bool {
	return slices.Contains(r.own.multi, f) && slices.Contains(r.sender.multi, f)
}

func (r *Receiver) fourOctets() bool { return r.own.four && r.sender.four }
func (r *Receiver) internal() bool   { return r.own.as == r.sender.as }

func (r *Receiver) message(typ byte, body []byte) error {
	const typeOpen, typeUpdate, typeNotification, typeKeepalive, typeRefresh = 1, 2, 3, 4, 5
	if r.state == ended {
		return errors.New("a message after the NOTIFICATION")
	}
	switch {
	case typ == typeNotification:
		if err := notification(body); err != nil {
			return err
		}
		r.state, r.Notified = ended, body
	case r.state == openSent && typ == typeOpen:
		var err error
		if r.sender, err = parseOpen(body); err != nil {
			return err
		}
		r.state = openConfirm
	case r.state != openSent && typ == typeKeepalive:
		if len(body) > 0 {
			return errors.New("1/2: a KEEPALIVE with a body")
		}
		if r.state == established && min(r.own.hold, r.sender.hold) == 0 {
			return errors.New("a KEEPALIVE on a session without")
		}
		r.Keepalives++
		r.state = established
	case r.state == established && typ == typeUpdate:
		r.Updates++
		return r.update(body)
	case r.state == established && typ == typeRefresh:
		if !r.own.refresh || !r.sender.refresh {
			return errors.New("a ROUTE-REFRESH that was not agreed on")
		}
		if len(body) != 4 || !r.carries(Family{binary.BigEndian.Uint16(body), body[3]}) {
			return errors.New("a ROUTE-REFRESH of no family of the session")
		}
	default:
		return fmt.Errorf("5/%d: unexpected message", r.state+1)
	}
	return nil
}

// notification judges the body of a NOTIFICATION: its code and subcode are in IANA's
// registry, and its data are what their RFC says.
func notification(body []byte) error {
	if len(body) < 2 {
		return errors.New("1/2: a NOTIFICATION without code")
	}
	code, subcode, data := body[0], body[1], body[2:]
	subcodes := map[byte][]byte{
		1: {1, 2, 3}, 2: {0, 1, 2, 3, 4, 6, 7, 11}, 3: {1, 2, 3, 4, 5, 6, 8, 9, 10, 11}, 4: {0}, 5: {0, 1, 2, 3},
		6: {1, 2, 3, 4, 5, 6, 7, 8, 9, 10}, 7: {1}, 8: {0},
	}
	if !slices.Contains(subcodes[code], subcode) {
		return fmt.Errorf("a NOTIFICATION of %d/%d", code, subcode)
	}
	ok := len(data) == 0
	switch [2]byte{code, subcode} {
	case [2]byte{1, 2}, [2]byte{2, 1}: // a length, a version (RFC 4271 sections 6.1 and 6.2)
		ok = len(data) == 2
	case [2]byte{1, 3}, [2]byte{5, 1}, [2]byte{5, 2}, [2]byte{5, 3}: // the type of a message (RFC 4271 section 6.1, RFC 6608 section 4)
		ok = len(data) == 1
	case [2]byte{2, 7}: // capabilities (RFC 5492 section 3)
		for ok = len(data) > 0; ok && len(data) > 0; {
			if ok = len(data) >= 2 && len(data) >= 2+int(data[1]); ok {
				data = data[2+int(data[1]):]
			}
		}
	case [2]byte{6, 1}: // family and upper bound (RFC 4486 section 4)
		ok = ok || len(data) == 7
	case [2]byte{6, 2}, [2]byte{6, 4}: // a text (RFC 9003 section 2)
		ok = ok || len(data) == 1+int(data[0]) && utf8.Valid(data[1:])
	case [2]byte{6, 9}: // another NOTIFICATION (RFC 8538 section 3)
		ok = notification(data) == nil && !(data[0] == 6 && data[1] == 9)
	}
	if code == 3 { // an attribute, of which nobody makes sense
		ok = true
	}
	if !ok {
		return fmt.Errorf("a NOTIFICATION of %d/%d with %x", code, subcode, body[2:])
	}
	return nil
}

// An attribute's place in an UPDATE.
type attribute struct {
	flags byte
	value []byte
}

// attributes are those that a sender of routes can have, with their flags.
var attributes = map[byte]struct {
	name  string
	flags byte
}{
	1: {"ORIGIN", 0x40}, 2: {"AS_PATH", 0x40}, 3: {"NEXT_HOP", 0x40}, 4: {"MULTI_EXIT_DISC", 0x80}, 5: {"LOCAL_PREF", 0x40},
	8: {"COMMUNITIES", 0xc0}, 14: {"MP_REACH_NLRI", 0x80}, 15: {"MP_UNREACH_NLRI", 0x80}, 16: {"EXTENDED COMMUNITIES", 0xc0},
	17: {"AS4_PATH", 0xc0}, 32: {"LARGE_COMMUNITY", 0xc0}, 35: {"OTC", 0xc0},
}

func (r *Receiver) update(body []byte) error {
	withdrawn, rest, ok := block(body)
	if !ok {
		return errors.New("3/1: withdrawn routes beyond the end")
	}
	list, reachable, ok := block(rest)
	if !ok {
		return errors.New("3/1: attributes beyond the end")
	}
	if len(withdrawn)+len(list)+len(reachable) == 0 {
		return r.end(IPv4)
	}
	attrs := map[byte]attribute{}
	for first := true; len(list) > 0; first = false {
		if len(list) < 3 {
			return errors.New("3/1: half an attribute")
		}
		flags, code, n, head := list[0], list[1], int(list[2]), 3
		if flags&0x10 != 0 {
			if len(list) < 4 {
				return errors.New("3/1: half an attribute")
			}
			if n, head = int(binary.BigEndian.Uint16(list[2:])), 4; n < 256 {
				return errors.New("3/4: the extended length of a short attribute")
			}
		}
		if len(list) < head+n {
			return errors.New("3/5: an attribute beyond the end")
		}
		known, ok := attributes[code]
		if !ok {
			return fmt.Errorf("3/2: attribute %d", code)
		}
		if flags&^0x10 != known.flags {
			return fmt.Errorf("3/4: %s with flags %#x", known.name, flags)
		}
		if _, twice := attrs[code]; twice {
			return fmt.Errorf("3/1: %s twice", known.name)
		}
		if (code == 14 || code == 15) && !first {
			return fmt.Errorf("3/1: %s is not the first attribute", known.name)
		}
		attrs[code] = attribute{flags, list[head : head+n]}
		list = list[head+n:]
	}
	reach, hasReach := attrs[14]
	unreach, hasUnreach := attrs[15]
	kinds := 0
	for _, has := range []bool{len(withdrawn) > 0, len(reachable) > 0, hasReach, hasUnreach} {
		if has {
			kinds++
		}
	}
	switch {
	case kinds != 1:
		return fmt.Errorf("3/1: %d kinds of prefixes in one UPDATE", kinds)
	case (len(withdrawn) > 0 && len(attrs) > 0) || (hasUnreach && len(attrs) > 1):
		return errors.New("3/1: a withdrawal with attributes")
	case len(withdrawn) > 0:
		if !r.carries(IPv4) {
			return errors.New("3/10: withdrawn routes without IPv4")
		}
		return r.forget(IPv4, withdrawn)
	case hasUnreach:
		if len(unreach.value) < 3 {
			return errors.New("3/9: MP_UNREACH_NLRI is short")
		}
		f := Family{binary.BigEndian.Uint16(unreach.value), unreach.value[2]}
		if !r.multiprotocol(f) {
			return fmt.Errorf("3/9: MP_UNREACH_NLRI of family %v", f)
		}
		if len(unreach.value) == 3 {
			return r.end(f)
		}
		return r.forget(f, unreach.value[3:])
	}
	if _, has := attrs[3]; has != (len(reachable) > 0) {
		return fmt.Errorf("3/3: NEXT_HOP: %v", has)
	}
	route, err := r.route(attrs)
	if err != nil {
		return err
	}
	if len(reachable) > 0 {
		if !r.carries(IPv4) {
			return errors.New("3/10: routes without IPv4")
		}
		if len(attrs[3].value) != 4 {
			return errors.New("3/5: NEXT_HOP")
		}
		route.NextHop = netip.AddrFrom4([4]byte(attrs[3].value))
		return r.learn(IPv4, reachable, route)
	}
	v := reach.value
	if len(v) < 5 || len(v) < 5+int(v[3]) {
		return errors.New("3/9: MP_REACH_NLRI is short")
	}
	f, hop := Family{binary.BigEndian.Uint16(v), v[2]}, v[4:4+int(v[3])]
	if !r.multiprotocol(f) {
		return fmt.Errorf("3/9: MP_REACH_NLRI of family %v", f)
	}
	if v[4+len(hop)] != 0 {
		return errors.New("3/9: the reserved octet of MP_REACH_NLRI")
	}
	switch {
	case f == IPv4 && !(r.own.extendedNextHop && r.sender.extendedNextHop):
		return errors.New("3/9: a next hop of RFC 8950 that was not agreed on")
	case len(hop) == 32:
		if local := netip.AddrFrom16([16]byte(hop[16:])); !local.IsLinkLocalUnicast() {
			return fmt.Errorf("3/9: %v is not link-local", local)
		}
	case len(hop) != 16:
		return fmt.Errorf("3/9: a next hop of %d octets", len(hop))
	}
	route.NextHop = netip.AddrFrom16([16]byte(hop[:16]))
	return r.learn(f, v[5+len(hop):], route)
}

// route reads the attributes of a route, its next hop left aside.
func (r *Receiver) route(attrs map[byte]attribute) (Route, error) {
	route := Route{LocalPref: -1, MED: -1}
	if a, ok := attrs[1]; !ok || len(a.value) != 1 || a.value[0] > 2 {
		return route, errors.New("3/6: ORIGIN")
	}
	a, ok := attrs[2]
	if !ok {
		return route, errors.New("3/3: no AS_PATH")
	}
	width := 2
	if r.fourOctets() {
		width = 4
	}
	var err error
	if route.Path, err = path(a.value, width); err != nil {
		return route, err
	}
	if a, ok := attrs[17]; ok {
		if width == 4 {
			return route, errors.New("3/1: AS4_PATH between speakers of four octets")
		}
		four, err := path(a.value, 4)
		if err != nil {
			return route, err
		}
		if len(four) > len(route.Path) {
			return route, errors.New("3/1: AS4_PATH is longer than AS_PATH")
		}
		head := len(route.Path) - len(four)
		for i, as := range four {
			if two := route.Path[head+i]; two != as && two != 23456 {
				return route, fmt.Errorf("3/11: %d in AS_PATH, %d in AS4_PATH", two, as)
			}
		}
		route.Path = append(route.Path[:head], four...)
	}
	for _, as := range route.Path {
		if as == 0 || as == 23456 || as == r.own.as {
			return route, fmt.Errorf("3/11: AS %d in AS_PATH", as)
		}
	}
	if !r.internal() && (len(route.Path) == 0 || route.Path[0] != r.sender.as) {
		return route, fmt.Errorf("3/11: AS_PATH %v does not begin with %d", route.Path, r.sender.as)
	}
	if a, ok := attrs[4]; ok {
		if len(a.value) != 4 {
			return route, errors.New("3/5: MULTI_EXIT_DISC")
		}
		route.MED = int64(binary.BigEndian.Uint32(a.value))
	}
	a, ok = attrs[5]
	switch {
	case ok != r.internal():
		return route, fmt.Errorf("3/1: LOCAL_PREF: %v", ok)
	case ok && len(a.value) != 4:
		return route, errors.New("3/5: LOCAL_PREF")
	case ok:
		route.LocalPref = int64(binary.BigEndian.Uint32(a.value))
	}
	for _, c := range []struct {
		code byte
		unit int
		into *string
	}{{8, 4, &route.Communities}, {16, 8, &route.Extended}, {32, 12, &route.Large}} {
		if a, ok := attrs[c.code]; ok {
			if len(a.value) == 0 || len(a.value)%c.unit != 0 {
				return route, fmt.Errorf("3/5: %s of %d octets", attributes[c.code].name, len(a.value))
			}
			*c.into = string(a.value)
		}
	}
	if a, ok := attrs[35]; ok {
		if len(a.value) != 4 {
			return route, errors.New("3/5: OTC")
		}
		route.OnlyToCustomers = binary.BigEndian.Uint32(a.value)
	}
	want := uint32(0)
	if r.sender.role.marks() {
		want = r.sender.as
	}
	if route.OnlyToCustomers != want {
		return route, fmt.Errorf("OTC is %d, want %d from a %d", route.OnlyToCustomers, want, r.sender.role)
	}
	return route, nil
}

// path reads an AS_PATH.
func path(b []byte, width int) ([]uint32, error) {
	var out []uint32
	for len(b) > 0 {
		if len(b) < 2 || b[1] == 0 || len(b) < 2+width*int(b[1]) {
			return nil, errors.New("3/11: AS_PATH is malformed")
		}
		if b[0] != 2 {
			return nil, fmt.Errorf("3/11: a segment of type %d", b[0])
		}
		n := int(b[1])
		for b = b[2:]; n > 0; n-- {
			if width == 2 {
				out = append(out, uint32(binary.BigEndian.Uint16(b)))
			} else {
				out = append(out, binary.BigEndian.Uint32(b))
			}
			b = b[width:]
		}
	}
	return out, nil
}

func (r *Receiver) end(f Family) error {
	if !r.own.graceful {
		return errors.New("an End-of-RIB that was not asked for")
	}
	if !r.carries(f) {
		return fmt.Errorf("the end of RIB of family %v", f)
	}
	r.Ends = append(r.Ends, f)
	return nil
}

func (r *Receiver) learn(f Family, b []byte, route Route) error {
	hop := route.NextHop
	if hop.IsUnspecified() || hop.IsMulticast() || hop.IsLoopback() && !r.Loopback || hop.Is4In6() {
		return fmt.Errorf("3/8: next hop %v", hop)
	}
	return prefixes(f, b, func(p netip.Prefix) { r.Routes[p] = route })
}

func (r *Receiver) forget(f Family, b []byte) error {
	return prefixes(f, b, func(p netip.Prefix) {
		delete(r.Routes, p)
		r.Withdrawals++
	})
}

// prefixes reads prefixes of which there must be some, no two alike.
func prefixes(f Family, b []byte, each func(netip.Prefix)) error {
	size := 16
	if f == IPv4 {
		size = 4
	}
	seen := map[netip.Prefix]bool{}
	for len(b) > 0 {
		bits := int(b[0])
		n := (bits + 7) / 8
		if bits > 8*size || len(b) < 1+n {
			return errors.New("3/10: a prefix is malformed")
		}
		octets := make([]byte, size)
		copy(octets, b[1:1+n])
		a, _ := netip.AddrFromSlice(octets)
		p := netip.PrefixFrom(a, bits)
		if p != p.Masked() {
			return fmt.Errorf("3/10: %v has bits beyond its length", p)
		}
		if seen[p] {
			return fmt.Errorf("3/10: %v twice", p)
		}
		seen[p] = true
		each(p)
		b = b[1+n:]
	}
	if len(seen) == 0 {
		return errors.New("3/10: no prefixes")
	}
	return nil
}

// block splits b after the block whose length its first two octets say.
func block(b []byte) (block, rest []byte, ok bool) {
	if len(b) < 2 || len(b)-2 < int(binary.BigEndian.Uint16(b)) {
		return nil, nil, false
	}
	n := 2 + int(binary.BigEndian.Uint16(b))
	return b[2:n], b[n:], true
}
