package bgp

import (
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/belfrylb/belfry/internal/bgp/wire"
	"github.com/belfrylb/belfry/internal/lb"
)

// Defaults, for what a peer leaves at 0: docs/design/gobgp.md.
const (
	// DefaultPort is BGP's (RFC 4271).
	DefaultPort = 179
	// DefaultConnectTime bounds the pause between attempts to connect. A SYN
	// every ten seconds costs nothing.
	DefaultConnectTime = 10 * time.Second
	// DefaultMaximumPrefixes is how many received prefixes are counted.
	DefaultMaximumPrefixes = 100
	// DefaultRestartTime is how long a peer keeps our routes in a graceful
	// restart.
	DefaultRestartTime = 120 * time.Second
)

// minSendHoldTime is the least send hold time (RFC 9687 section 4.4).
const minSendHoldTime = 8 * time.Minute

// WireFamily returns the family as messages spell it.
func WireFamily(f lb.Family) wire.Family {
	if f == lb.IPv4 {
		return wire.IPv4Unicast
	}
	return wire.IPv6Unicast
}

// LocalOpen returns the OPEN that we send to a peer. Restarting is set on the
// first session of a speaker's life, which may follow another life: the R bit of
// RFC 4724. The F bit is always set: forwarding is kube-proxy's and does not
// stop when the speaker does.
func LocalOpen(p lb.BGPPeer, id netip.Addr, restarting bool) wire.Open {
	o := wire.Open{AS: p.LocalAS(), HoldTime: uint16(p.HoldTime / time.Second), ID: id}
	o.FourOctetAS, o.RouteRefresh = true, true
	families := Families(p)
	for _, f := range families {
		o.Families = append(o.Families, WireFamily(f))
	}
	if !Internal(p) {
		o.Role = p.Role
	}
	v6 := p.Interface != "" || p.Address.Is6()
	o.ExtendedNextHop = v6 && slices.Contains(families, lb.IPv4)
	if g := p.GracefulRestart; g != nil {
		t := g.RestartTime
		if t == 0 {
			t = DefaultRestartTime
		}
		o.GracefulRestart = &wire.GracefulRestart{Restarting: restarting, Time: uint16(min(t/time.Second, 4095))}
		for _, f := range o.Families {
			o.GracefulRestart.Families = append(o.GracefulRestart.Families, wire.RestartFamily{Family: f, Forwarding: true})
			if g.LongLived > 0 {
				o.LongLived = append(o.LongLived, wire.LongLived{Family: f, Forwarding: true, Time: uint32(min(g.LongLived/time.Second, 1<<24-1))})
			}
		}
	}
	return o
}

// Negotiated is what two OPENs agree on.
type Negotiated struct {
	PeerAS   uint32
	PeerID   netip.Addr
	Internal bool
	// HoldTime is 0 when there are no keepalives; KeepaliveTime then is too.
	HoldTime, KeepaliveTime time.Duration
	// SendHoldTime is how long the peer may read nothing (RFC 9687).
	SendHoldTime time.Duration
	// Families are those that both sides carry.
	Families []lb.Family
	// FourOctetAS and ExtendedNextHop are what the peer understands.
	FourOctetAS, ExtendedNextHop bool
	// OnlyToCustomers is the AS that our routes are marked with; 0 for none.
	OnlyToCustomers uint32
	// EndOfRIB is set when the peer wants to know the end of our first table.
	EndOfRIB bool
	// Capabilities are the peer's.
	Capabilities wire.Capabilities
}

// Terms are what was agreed on, as far as it decides what an UPDATE may say.
func (n Negotiated) Terms() wire.Terms {
	return wire.Terms{
		IPv4: slices.Contains(n.Families, lb.IPv4), IPv6: slices.Contains(n.Families, lb.IPv6),
		ExtendedNextHop: n.ExtendedNextHop, FourOctetAS: n.FourOctetAS, Internal: n.Internal,
		OnlyToCustomers: n.OnlyToCustomers,
	}
}

// Negotiate judges a peer's OPEN against ours. An error is a [*wire.Error],
// whose NOTIFICATION the peer is to get.
func Negotiate(p lb.BGPPeer, ours, theirs wire.Open) (Negotiated, error) {
	n := Negotiated{
		PeerAS: theirs.AS, PeerID: theirs.ID, Internal: theirs.AS == ours.AS,
		FourOctetAS: theirs.FourOctetAS, ExtendedNextHop: ours.ExtendedNextHop && theirs.ExtendedNextHop,
		EndOfRIB: theirs.GracefulRestart != nil, Capabilities: theirs.Capabilities,
	}
	badAS := ""
	switch p.Kind {
	case lb.PeerFixed:
		if theirs.AS != p.PeerASN {
			badAS = fmt.Sprintf("bad peer AS %d, expected %d", theirs.AS, p.PeerASN)
		}
	case lb.PeerInternal:
		if !n.Internal {
			badAS = fmt.Sprintf("bad peer AS %d, expected our own %d", theirs.AS, ours.AS)
		}
	case lb.PeerExternal:
		if n.Internal {
			badAS = fmt.Sprintf("bad peer AS %d, expected another than our own", theirs.AS)
		}
	}
	if badAS != "" {
		return n, &wire.Error{Code: wire.CodeOpen, Subcode: wire.OpenPeerAS, Text: badAS}
	}
	// Identifiers need only be unique within an AS (RFC 6286).
	if n.Internal && theirs.ID == ours.ID {
		return n, &wire.Error{Code: wire.CodeOpen, Subcode: wire.OpenIdentifier, Text: fmt.Sprintf("the peer has our own router ID %s", ours.ID)}
	}
	// A router that tells no role is taken at our word, unless it must (RFC 9234
	// section 4.2).
	if !n.Internal && ours.Role != lb.NoRole {
		mismatch := ""
		switch {
		case theirs.Role == lb.NoRole && p.RequireRole:
			mismatch = fmt.Sprintf("the router tells no role, and requireRole is set; role is %v here", ours.Role)
		case theirs.Role != lb.NoRole && !ours.Role.Fits(theirs.Role):
			mismatch = fmt.Sprintf("role is %v here, the router says that it is %v; a provider faces a customer, an rs an rs-client, a peer a peer", ours.Role, theirs.Role)
		}
		if mismatch != "" {
			return n, &wire.Error{Code: wire.CodeOpen, Subcode: wire.OpenRole, Text: "role mismatch: " + mismatch}
		}
		if ours.Role.Marks() {
			n.OnlyToCustomers = ours.AS
		}
	}
	for _, f := range Families(p) {
		if slices.Contains(theirs.Families, WireFamily(f)) {
			n.Families = append(n.Families, f)
		}
	}
	if len(n.Families) == 0 {
		return n, &wire.Error{
			Code: wire.CodeOpen, Subcode: wire.OpenCapability, Data: wire.MissingFamilies(ours.Families),
			Text: fmt.Sprintf("no address family in common: ours %v, the peer's %v", ours.Families, theirs.Families),
		}
	}
	n.HoldTime = time.Duration(min(ours.HoldTime, theirs.HoldTime)) * time.Second
	n.SendHoldTime = max(minSendHoldTime, 2*n.HoldTime)
	// A keepalive at least every third of the hold time that both agree on (RFC 4271
	// section 4.4), so that one that is lost costs nothing.
	n.KeepaliveTime = n.HoldTime / 3
	if k := p.KeepaliveTime; k > 0 {
		n.KeepaliveTime = min(k, n.KeepaliveTime)
	}
	return n, nil
}

// RouterID returns the BGP identifier of a peer's session: the configured one,
// else the node's first IPv4 address, else one made from its name, which is then
// unique as far as 31 bits allow (class E addresses are not in use).
func RouterID(p lb.BGPPeer, node lb.Node) netip.Addr {
	if p.RouterID.Is4() {
		return p.RouterID
	}
	for _, a := range node.Addresses {
		if a.Is4() && !a.IsLoopback() && !a.IsUnspecified() {
			return a
		}
	}
	h := fnv(fnvBasis, node.Name)
	h |= 0xf0000000
	return netip.AddrFrom4([4]byte{byte(h >> 24), byte(h >> 16), byte(h >> 8), byte(h)})
}

// Backoff returns the pause before attempt n to connect, the first being 0:
// short, then 1 s doubling up to limit. R is random in [0,1) and takes up to a
// quarter off, so that a rebooted router is not met by all nodes at once
// (RFC 4271 section 10, docs/design/gobgp.md).
func Backoff(n int, limit time.Duration, r float64) time.Duration {
	if limit <= 0 {
		limit = DefaultConnectTime
	}
	d := 250 * time.Millisecond
	if n > 0 {
		d = limit
		if n <= 17 {
			d = min(limit, time.Second<<(n-1))
		}
	}
	return d - time.Duration(r*float64(d)/4)
}
