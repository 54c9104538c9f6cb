package lb

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"time"
)

// A Secret is text that must not be shown: every way of printing it, JSON
// included, gives "[redacted]". It is held by pointer, so that not even a struct
// that hides one in an unexported field prints it. Reveal is the one way to the
// text.
type Secret struct{ text *string }

// NewSecret wraps text.
func NewSecret(text string) Secret {
	if text == "" {
		return Secret{}
	}
	return Secret{&text}
}

// Reveal returns the text.
func (s Secret) Reveal() string {
	if s.text == nil {
		return ""
	}
	return *s.text
}

// Empty reports whether there is no text.
func (s Secret) Empty() bool { return s.text == nil }

// Equal reports whether both hold the same text.
func (s Secret) Equal(o Secret) bool { return s.Reveal() == o.Reveal() }

const redacted = "[redacted]"

// Format implements fmt.Formatter, so that no verb shows the text.
func (s Secret) Format(f fmt.State, _ rune) {
	if !s.Empty() {
		_, _ = f.Write([]byte(redacted))
	}
}

// MarshalText implements encoding.TextMarshaler; slog, JSON and YAML use it.
func (s Secret) MarshalText() ([]byte, error) {
	if s.Empty() {
		return nil, nil
	}
	return []byte(redacted), nil
}

// UnmarshalText implements encoding.TextUnmarshaler, so that a dump can be read:
// what was a secret is then one with the text "[redacted]".
func (s *Secret) UnmarshalText(text []byte) error {
	*s = NewSecret(string(text))
	return nil
}

// A SessionID is the number of an established BGP session, as far as it carries routes
// of one family. Nodes tell each other numbers rather than the names of peers, which may
// be long.
type SessionID uint32

// A PeerKind says which autonomous systems a BGPPeer may belong to.
type PeerKind uint8

// Peer kinds.
const (
	// PeerFixed is exactly BGPPeer.PeerASN.
	PeerFixed PeerKind = iota
	// PeerInternal is whatever our own is (dynamicASN: internal).
	PeerInternal
	// PeerExternal is any other than our own (dynamicASN: external).
	PeerExternal
)

// String returns the kind in a word.
func (k PeerKind) String() string { return [...]string{"fixed", "internal", "external"}[k] }

// A Role is a speaker's part in the relation of two autonomous systems (RFC 9234
// section 3.2).
type Role uint8

// Roles, in the RFC's order. A customer is one that pays for transit; rs is a route
// server. RoleUnknown is what a router says that the RFC does not know, or several.
const (
	NoRole Role = iota
	RoleProvider
	RoleRS
	RoleRSClient
	RoleCustomer
	RolePeer
	RoleUnknown
)

// String returns the role as BGPPeer spells it.
func (r Role) String() string {
	return [...]string{"none", "provider", "rs", "rs-client", "customer", "peer", "unknown"}[r]
}

// Fits reports whether two speakers can have these roles towards each other (RFC 9234
// section 4.2).
func (r Role) Fits(o Role) bool {
	return [...]Role{RoleUnknown, RoleCustomer, RoleRSClient, RoleRS, RoleProvider, RolePeer, NoRole}[r] == o
}

// Marks reports whether a speaker of this role marks what it announces as for the
// other's customers only (RFC 9234 section 5).
func (r Role) Marks() bool { return r == RoleProvider || r == RoleRS || r == RolePeer }

// A BGPPeer is a compiled BGPPeer object: a router to hold a session with.
type BGPPeer struct {
	Name    string
	Created time.Time
	// MyASN is our autonomous system. LocalASN, when not 0, is the one shown
	// to this peer instead; MyASN then stands behind it in the AS path.
	MyASN, LocalASN uint32
	// PeerASN is the peer's autonomous system; 0 unless Kind is PeerFixed.
	PeerASN uint32
	Kind    PeerKind
	// Role is ours towards the peer; external peers alone have one. RequireRole has the
	// peer tell its own (RFC 9234's strict mode).
	Role        Role
	RequireRole bool
	// Address is the router's address. Invalid when Interface is set: the
	// router is then found by its router advertisements on that interface.
	Address   netip.Addr
	Interface string
	Port      uint16
	// Source is the address to dial from; invalid leaves it to the kernel.
	Source netip.Addr
	// RouterID is the BGP identifier; invalid derives one from the node.
	RouterID netip.Addr
	// HoldTime is 0 (no keepalives at all) or at least 3 s. KeepaliveTime 0 is
	// a third of the negotiated hold time. ConnectTime bounds the pause between
	// attempts to connect; 0 is the default of package bgp.
	HoldTime, KeepaliveTime, ConnectTime time.Duration
	EBGPMultiHop                         bool
	// TTLSecurity is the number of hops to the peer that RFC 5082 permits; 0 is
	// off.
	TTLSecurity int
	// Password signs the session (RFC 2385); empty is none.
	Password Secret
	// PasswordFault says why the password that the peer asks for is not there.
	// The session is not attempted without it.
	PasswordFault string
	// BFD watches the peer; nil is off.
	BFD             *BFDProfile
	GracefulRestart *GracefulRestart
	// Families are the address families of the session. Empty: the family of
	// Address, and both for an Interface.
	Families []Family
	// VRF is the Linux device to bind to; empty is none.
	VRF string
	// NodeSelectors are or-ed. Empty: every node.
	NodeSelectors []Selector
	// Shutdown keeps the session down; the router is told ShutdownMessage.
	Shutdown        bool
	ShutdownMessage string
	// MaximumPrefixes is how many received prefixes are remembered (only to be
	// counted: none is ever used); 0 is the default of package bgp.
	MaximumPrefixes int
}

// LocalAS returns the autonomous system that the peer sees us as.
func (p BGPPeer) LocalAS() uint32 {
	if p.LocalASN != 0 {
		return p.LocalASN
	}
	return p.MyASN
}

// SameRouter reports whether both peers would connect one node to the same port
// of the same router from the same place, of which a router takes only one.
func (p BGPPeer) SameRouter(o BGPPeer) bool {
	return p.Address == o.Address && p.Interface == o.Interface && p.Port == o.Port && p.Source == o.Source && p.VRF == o.VRF
}

// GracefulRestart is what the peer is asked to do when the session is lost
// without a goodbye (RFC 4724, RFC 9494).
type GracefulRestart struct {
	// RestartTime is how long the peer keeps our routes.
	RestartTime time.Duration
	// LongLived is how much longer it keeps them as a last resort; 0 is off.
	LongLived time.Duration
}

// A BFDProfile is a compiled BFDProfile object (RFC 5880).
type BFDProfile struct {
	Name string
	// Receive and Transmit are the intervals we require and desire.
	Receive, Transmit time.Duration
	DetectMultiplier  uint8
	// Passive waits for the peer's first packet.
	Passive bool
	// MinimumTTL is the least TTL that a multihop packet may arrive with.
	MinimumTTL uint8
	// Authentication is how packets are signed; the first of Keys signs, all are
	// accepted. BFDUnsigned has none.
	Authentication BFDAuthentication
	Keys           []BFDKey
	// KeyFault says why a key that the profile asks for is not there. BFD does not
	// begin without it.
	KeyFault string
	// Echo asks for the echo function at EchoInterval.
	Echo         bool
	EchoInterval time.Duration
}

// A BFDAuthentication is how BFD packets are signed. The values are those of the
// packet (RFC 5880 section 4.1).
type BFDAuthentication uint8

// Ways to sign.
const (
	BFDUnsigned            BFDAuthentication = 0
	BFDKeyedSHA1           BFDAuthentication = 4
	BFDMeticulousKeyedSHA1 BFDAuthentication = 5
)

// A BFDKey signs BFD packets, which name it by its ID.
type BFDKey struct {
	ID       uint8
	Password Secret
}

// A BGPAdvertisement is a compiled BGPAdvertisement object.
type BGPAdvertisement struct {
	Name    string
	Created time.Time
	Scope
	// Peers are names of BGPPeers. Empty: every peer.
	Peers []string
	// AggregationLength and AggregationLengthV6 are the lengths of the prefixes
	// to advertise; 0 is that of a single address.
	AggregationLength, AggregationLengthV6 int
	// LocalPref and MED are nil when the advertisement does not set them.
	LocalPref, MED *uint32
	Communities    []Community
	// ASPathPrepend repeats our autonomous system this many times more.
	ASPathPrepend int
	// WeightByEndpoints adds the link bandwidth community, in proportion to the
	// ready endpoints on the node.
	WeightByEndpoints bool
}

// A Community is a standard (RFC 1997) or large (RFC 8092) BGP community. It is
// comparable.
type Community struct {
	Large bool
	// A is the high half and B the low half of a standard community; the three
	// numbers of a large one.
	A, B, C uint32
}

// Well-known communities.
var (
	GracefulShutdown = Community{A: 0xffff, B: 0}      // RFC 8326
	Blackhole        = Community{A: 0xffff, B: 666}    // RFC 7999
	NoExport         = Community{A: 0xffff, B: 0xff01} // RFC 1997
	NoAdvertise      = Community{A: 0xffff, B: 0xff02} // RFC 1997
	NoPeer           = Community{A: 0xffff, B: 0xff04} // RFC 3765
	// LLGRStale has no name: routers give it to routes of others.
	LLGRStale = Community{A: 0xffff, B: 6} // RFC 9494
)

var wellKnown = map[string]Community{
	"graceful-shutdown": GracefulShutdown,
	"blackhole":         Blackhole,
	"no-export":         NoExport,
	"no-advertise":      NoAdvertise,
	"no-peer":           NoPeer,
}

// ErrNotCommunity is returned for text that has not the form of a community; it
// may then be the name of one.
var ErrNotCommunity = errors.New("want a:b, large:a:b:c or a well-known name")

// ParseCommunity parses "a:b", "large:a:b:c" or a well-known name.
func ParseCommunity(s string) (Community, error) {
	if c, ok := wellKnown[s]; ok {
		return c, nil
	}
	fields, bits := strings.Split(s, ":"), 16
	c := Community{Large: fields[0] == "large"}
	if c.Large {
		fields, bits = fields[1:], 32
	}
	want := 2
	if c.Large {
		want = 3
	}
	if len(fields) != want {
		return Community{}, fmt.Errorf("community %q: %w", s, ErrNotCommunity)
	}
	for i, to := range []*uint32{&c.A, &c.B, &c.C}[:want] {
		if strings.HasPrefix(fields[i], "+") {
			return Community{}, fmt.Errorf("community %q: %w", s, ErrNotCommunity)
		}
		n, err := strconv.ParseUint(fields[i], 10, bits)
		if errors.Is(err, strconv.ErrRange) {
			return Community{}, fmt.Errorf("community %q: %s does not fit %d bits", s, fields[i], bits)
		} else if err != nil {
			return Community{}, fmt.Errorf("community %q: %w", s, ErrNotCommunity)
		}
		*to = uint32(n)
	}
	return c, nil
}

// String returns "a:b", "large:a:b:c" or the well-known name.
func (c Community) String() string {
	for name, w := range wellKnown {
		if w == c {
			return name
		}
	}
	if c.Large {
		return fmt.Sprintf("large:%d:%d:%d", c.A, c.B, c.C)
	}
	return fmt.Sprintf("%d:%d", c.A, c.B)
}

// Compare orders standard communities before large ones, then by number.
func (c Community) Compare(o Community) int {
	if c.Large != o.Large {
		if c.Large {
			return 1
		}
		return -1
	}
	return cmp.Or(cmp.Compare(c.A, o.A), cmp.Compare(c.B, o.B), cmp.Compare(c.C, o.C))
}
