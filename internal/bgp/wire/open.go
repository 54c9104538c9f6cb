package wire

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/belfrylb/belfry/internal/lb"
)

// asTrans stands in the OPEN for an AS of four octets (RFC 6793).
const asTrans = 23456

// An Open is an OPEN message.
type Open struct {
	// AS is the autonomous system, from the capability when there is one.
	AS uint32
	// HoldTime is in seconds; 0 or at least 3.
	HoldTime uint16
	// ID is the BGP identifier, an IPv4 address in form only.
	ID netip.Addr
	Capabilities
}

// Capabilities are the capabilities of an OPEN that mean something to us
// (RFC 5492).
type Capabilities struct {
	// Families are those of the multiprotocol capability (RFC 4760). Without
	// one, IPv4 unicast is meant, and is here.
	Families []Family
	// FourOctetAS is RFC 6793.
	FourOctetAS bool
	// RouteRefresh is RFC 2918.
	RouteRefresh bool
	// ExtendedNextHop is RFC 8950: IPv4 unicast with an IPv6 next hop.
	ExtendedNextHop bool
	// GracefulRestart is RFC 4724; nil when absent.
	GracefulRestart *GracefulRestart
	// LongLived is RFC 9494.
	LongLived []LongLived
	// Role is RFC 9234's, of the sender.
	Role lb.Role
	// Hostname and Software are what the peer says of itself, made printable.
	Hostname, Software string
	// Cut are the codes that are not understood and were left out.
	Cut []uint8
}

// GracefulRestart is the capability of RFC 4724 section 3.
type GracefulRestart struct {
	// Restarting is the R bit: the sender has restarted.
	Restarting bool
	// Time is how long the sender asks to be waited for, in seconds, below 4096.
	Time uint16
	// Families are those whose routes are to be kept.
	Families []RestartFamily
}

// A RestartFamily is one family of a GracefulRestart.
type RestartFamily struct {
	Family Family
	// Forwarding is the F bit: forwarding went on across the restart.
	Forwarding bool
}

// LongLived is one family of the capability of RFC 9494 section 3.
type LongLived struct {
	Family     Family
	Forwarding bool
	// Time is the long-lived stale time in seconds, below 2^24.
	Time uint32
}

// Capability codes, from IANA's registry.
const (
	capMultiprotocol   = 1
	capRouteRefresh    = 2
	capExtendedNextHop = 5
	capRole            = 9
	capGracefulRestart = 64
	capFourOctetAS     = 65
	capLongLived       = 71
	capFQDN            = 73
	capSoftware        = 75
)

// ParseOpen parses the body of an OPEN.
func ParseOpen(body []byte) (Open, error) {
	var o Open
	if len(body) < 10 {
		return o, &Error{Code: CodeHeader, Subcode: 2, Text: fmt.Sprintf("OPEN with a body of %d octets", len(body))}
	}
	if body[0] != 4 {
		return o, &Error{Code: CodeOpen, Subcode: OpenVersion, Data: []byte{0, 4}, Text: fmt.Sprintf("the router speaks version %d of BGP, not 4", body[0])}
	}
	o.AS = uint32(binary.BigEndian.Uint16(body[1:]))
	o.HoldTime = binary.BigEndian.Uint16(body[3:])
	o.ID = netip.AddrFrom4([4]byte(body[5:9]))
	if err := o.parseParameters(body[9:]); err != nil {
		return o, err
	}
	if len(o.Families) == 0 {
		o.Families = []Family{IPv4Unicast}
		// It is spelled in MP_REACH_NLRI, which needs the multiprotocol capability.
		o.ExtendedNextHop = false
	}
	switch {
	case o.AS == 0, o.AS == asTrans: // RFC 7607, RFC 6793 section 9
		return o, &Error{Code: CodeOpen, Subcode: OpenPeerAS, Text: fmt.Sprintf("the router says that its AS is %d, which is reserved", o.AS)}
	case o.HoldTime == 1 || o.HoldTime == 2:
		return o, &Error{Code: CodeOpen, Subcode: OpenHoldTime, Text: fmt.Sprintf("the router offers a hold time of %d s; there is none between 0 and 3", o.HoldTime)}
	case o.ID.IsUnspecified():
		return o, &Error{Code: CodeOpen, Subcode: OpenIdentifier, Text: "the router has the BGP identifier 0.0.0.0"}
	}
	return o, nil
}

// parseParameters parses the optional parameters, in the short form of
// RFC 4271 section 4.2 or the extended one of RFC 9072.
func (o *Open) parseParameters(b []byte) error {
	total, head := int(b[0]), 2
	b = b[1:]
	// What the short form says of its length is of no account, as long as it is not 0.
	if total != 0 && len(b) >= 3 && b[0] == 255 {
		total, head = int(binary.BigEndian.Uint16(b[1:])), 3
		b = b[3:]
	}
	if total != len(b) {
		return &Error{Code: CodeOpen, Text: fmt.Sprintf("%d octets of optional parameters, %d said", len(b), total)}
	}
	for len(b) > 0 {
		if len(b) < head {
			return &Error{Code: CodeOpen, Text: "an optional parameter is cut short"}
		}
		n := int(b[1])
		if head == 3 {
			n = int(binary.BigEndian.Uint16(b[1:]))
		}
		if n > len(b)-head {
			return &Error{Code: CodeOpen, Text: "an optional parameter is cut short"}
		}
		if b[0] != 2 {
			return &Error{Code: CodeOpen, Subcode: OpenParameter, Text: fmt.Sprintf("unknown optional parameter %d", b[0])}
		}
		if err := o.parseCapabilities(b[head : head+n]); err != nil {
			return err
		}
		b = b[head+n:]
	}
	return nil
}

func (o *Open) parseCapabilities(b []byte) error {
	for len(b) > 0 {
		if len(b) < 2 || int(b[1]) > len(b)-2 {
			return &Error{Code: CodeOpen, Text: "a capability is cut short"}
		}
		code, v := b[0], b[2:2+int(b[1])]
		b = b[2+len(v):]
		if !o.parseCapability(code, v) {
			return &Error{Code: CodeOpen, Text: fmt.Sprintf("malformed capability %d", code)}
		}
	}
	return nil
}

// parseCapability reports whether v is well formed for its code.
func (o *Open) parseCapability(code uint8, v []byte) bool {
	switch code {
	case capMultiprotocol:
		if len(v) != 4 {
			return false
		}
		if f := (Family{AFI: binary.BigEndian.Uint16(v), SAFI: v[3]}); !slices.Contains(o.Families, f) {
			o.Families = append(o.Families, f)
		}
	case capRouteRefresh:
		o.RouteRefresh = true
		return len(v) == 0
	case capExtendedNextHop:
		// AFI, SAFI and the AFI of the next hop, two octets each.
		for ; len(v) >= 6; v = v[6:] {
			if binary.BigEndian.Uint16(v) == afiIPv4 && binary.BigEndian.Uint16(v[2:]) == safiUnicast && binary.BigEndian.Uint16(v[4:]) == afiIPv6 {
				o.ExtendedNextHop = true
			}
		}
		return len(v) == 0
	case capRole:
		if len(v) != 1 {
			return false
		}
		role := min(lb.Role(v[0]), lb.RoleUnknown-1) + 1 // the RFC's numbers plus one
		if o.Role != lb.NoRole && o.Role != role {
			role = lb.RoleUnknown // it cannot be several (RFC 9234 section 4.2)
		}
		o.Role = role
	case capGracefulRestart:
		if len(v) < 2 || len(v)%4 != 2 {
			return false
		}
		head := binary.BigEndian.Uint16(v)
		g := &GracefulRestart{Restarting: head&0x8000 != 0, Time: head & 0x0fff}
		for v = v[2:]; len(v) > 0; v = v[4:] {
			g.Families = append(g.Families, RestartFamily{Family{binary.BigEndian.Uint16(v), v[2]}, v[3]&0x80 != 0})
		}
		o.GracefulRestart = g
	case capFourOctetAS:
		if len(v) != 4 {
			return false
		}
		o.FourOctetAS, o.AS = true, binary.BigEndian.Uint32(v)
	case capLongLived:
		if len(v)%7 != 0 {
			return false
		}
		o.LongLived = nil
		for ; len(v) > 0; v = v[7:] {
			o.LongLived = append(o.LongLived, LongLived{
				Family{binary.BigEndian.Uint16(v), v[2]},
				v[3]&0x80 != 0, binary.BigEndian.Uint32(v[3:]) & 0xffffff,
			})
		}
	case capFQDN:
		// Length and host name; what follows is the domain, which few set. It
		// is decoration, so a malformed one is ignored.
		if len(v) > 0 && int(v[0]) <= len(v)-1 {
			o.Hostname = printable(v[1 : 1+int(v[0])])
		}
	case capSoftware:
		if len(v) > 0 && int(v[0]) <= len(v)-1 {
			o.Software = printable(v[1 : 1+int(v[0])])
		}
	default:
		if !slices.Contains(o.Cut, code) {
			o.Cut = append(o.Cut, code)
		}
	}
	return true
}

// printable returns text from a stranger, fit to be logged: control characters
// and what is not UTF-8 become a replacement mark.
func printable(b []byte) string {
	return strings.Map(func(r rune) rune {
		if r == utf8.RuneError || !unicode.IsPrint(r) {
			return '\uFFFD'
		}
		return r
	}, string(b))
}

// AppendOpen appends an OPEN. Hostname, Software and Cut are not sent.
func AppendOpen(b []byte, o Open) []byte {
	return appendMessage(b, TypeOpen, func(b []byte) []byte {
		as := o.AS
		if as > 0xffff {
			as = asTrans
		}
		id := o.ID.As4()
		b = append(b, 4)
		b = binary.BigEndian.AppendUint16(b, uint16(as))
		b = binary.BigEndian.AppendUint16(b, o.HoldTime)
		b = append(b, id[:]...)
		caps := o.appendCapabilities(nil)
		if len(caps) == 0 {
			return append(b, 0)
		}
		// Ours are few: they fit one parameter of the short form.
		b = append(b, byte(len(caps)+2), 2, byte(len(caps)))
		return append(b, caps...)
	})
}

func (o Open) appendCapabilities(b []byte) []byte {
	u16 := binary.BigEndian.AppendUint16
	for _, f := range o.Families {
		b = append(u16(append(b, capMultiprotocol, 4), f.AFI), 0, f.SAFI)
	}
	if o.RouteRefresh {
		b = append(b, capRouteRefresh, 0)
	}
	if o.ExtendedNextHop {
		b = u16(u16(u16(append(b, capExtendedNextHop, 6), afiIPv4), safiUnicast), afiIPv6)
	}
	if o.Role != lb.NoRole {
		b = append(b, capRole, 1, byte(o.Role-1))
	}
	if g := o.GracefulRestart; g != nil {
		head := g.Time & 0x0fff
		if g.Restarting {
			head |= 0x8000
		}
		b = u16(append(b, capGracefulRestart, byte(2+4*len(g.Families))), head)
		for _, f := range g.Families {
			b = append(u16(b, f.Family.AFI), f.Family.SAFI, flag(f.Forwarding))
		}
	}
	if o.FourOctetAS {
		b = binary.BigEndian.AppendUint32(append(b, capFourOctetAS, 4), o.AS)
	}
	if len(o.LongLived) > 0 {
		b = append(b, capLongLived, byte(7*len(o.LongLived)))
		for _, l := range o.LongLived {
			b = append(u16(b, l.Family.AFI), l.Family.SAFI)
			b = binary.BigEndian.AppendUint32(b, uint32(flag(l.Forwarding))<<24|l.Time&0xffffff)
		}
	}
	return b
}

// flag returns the highest bit of an octet, set when on.
func flag(on bool) byte {
	if on {
		return 0x80
	}
	return 0
}

// Names returns the capabilities as words, for people.
func (c Capabilities) Names() []string {
	var names []string
	for _, f := range c.Families {
		names = append(names, f.String())
	}
	for _, n := range []struct {
		has  bool
		name string
	}{
		{c.RouteRefresh, "route-refresh"},
		{c.FourOctetAS, "4-octet-as"},
		{c.ExtendedNextHop, "extended-next-hop"},
		{c.GracefulRestart != nil, "graceful-restart"},
		{len(c.LongLived) > 0, "long-lived-graceful-restart"},
		{c.Role != lb.NoRole, "role-" + c.Role.String()},
	} {
		if n.has {
			names = append(names, n.name)
		}
	}
	return names
}
