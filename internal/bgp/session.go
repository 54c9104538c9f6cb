package bgp

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/belfrylb/belfry/internal/lb"
)

// A State is a session's state (RFC 4271 section 8.2.2). There is no Active:
// we only dial.
type State uint8

// States.
const (
	Idle State = iota
	Connect
	OpenSent
	OpenConfirm
	Established
)

// String returns the RFC's name.
func (s State) String() string {
	return [...]string{"Idle", "Connect", "OpenSent", "OpenConfirm", "Established"}[s]
}

// A Cause says why a session is not established, or fell.
type Cause uint8

// Causes.
const (
	// NoCause: nothing has gone wrong yet.
	NoCause Cause = iota
	// ConnectionRefused: the router answered with a reset.
	ConnectionRefused
	// Unanswered: nothing answered the SYN.
	Unanswered
	// MD5Suspected: nothing did, and the session has a password.
	MD5Suspected
	// Unreachable: the kernel or the network has no way there.
	Unreachable
	// SourceUnusable: the source address or device is not there.
	SourceUnusable
	// ClosedBeforeOpen: the router took the connection and closed it without a
	// word, as for a neighbor that it does not know.
	ClosedBeforeOpen
	// ConnectionLost: closed or reset in mid-session.
	ConnectionLost
	// Silent: the router took the connection, and nothing more is heard of it.
	Silent
	// TTLTooLow: what it says comes from farther away than ttlSecurity lets it.
	TTLTooLow
	// HoldTimerExpired: the router fell silent.
	HoldTimerExpired
	// SendTimeout: the router stopped reading (RFC 9687).
	SendTimeout
	// OpenRejected: we do not accept the router's OPEN.
	OpenRejected
	// Malformed: the router sent what is no BGP.
	Malformed
	// Notified: the router sent a NOTIFICATION.
	Notified
	// AdminShutdown: the peer is shut down by configuration.
	AdminShutdown
	// PasswordMissing: the password cannot be had.
	PasswordMissing
	// NoNeighbor: no router has shown itself on the interface yet.
	NoNeighbor
	// BFDDown: BFD lost the peer.
	BFDDown
	// Reconfigured: the peer's own settings changed.
	Reconfigured
	// Leave: the speaker is going away.
	Leave
	// Internal: our own trouble; the text says which.
	InternalFault
)

var causes = [...]string{
	"None", "ConnectionRefused", "Unanswered", "MD5Suspected", "Unreachable", "SourceUnusable", "ClosedBeforeOpen",
	"ConnectionLost", "Silent", "TTLTooLow", "HoldTimerExpired", "SendTimeout", "OpenRejected", "Malformed", "Notified", "AdminShutdown",
	"PasswordMissing", "NoNeighbor", "BFDDown", "Reconfigured", "Leave", "Internal",
}

// String returns the cause as metrics spell it.
func (c Cause) String() string { return causes[c] }

// Ours reports whether the session ended because we wanted it to.
func (c Cause) Ours() bool { return c == AdminShutdown || c == Reconfigured || c == Leave }

// A Fault is why a session is not established, or fell: for machines, and in
// words.
type Fault struct {
	Cause Cause
	Text  string
	// first is what was told first, which the text repeats.
	first *Fault
}

// Error returns the text.
func (f *Fault) Error() string { return f.Text }

// Succeed returns what to tell after a fault that comes while another is told, without
// a session in between; before is nil for none. A fact stays until there is a better
// one: that a router closes connections without a word may follow from it, and what we
// guess from that would hide the reason. The router's own words stay alone, or beside
// what is new and no guess.
func (f *Fault) Succeed(before *Fault) *Fault {
	if before == nil {
		return f
	}
	if before.first != nil {
		before = before.first
	}
	switch f.Cause {
	case ClosedBeforeOpen, ConnectionLost:
		switch before.Cause {
		case Notified:
			return before
		case OpenRejected, Malformed, HoldTimerExpired, SendTimeout, Silent, TTLTooLow, BFDDown:
			return &Fault{Cause: before.Cause, Text: before.Text + "; since then " + f.Text, first: before}
		}
	case ConnectionRefused, Unanswered, MD5Suspected, Unreachable, Silent:
		if before.Cause == Notified {
			return &Fault{Cause: f.Cause, Text: f.Text + "; before that " + before.Text, first: before}
		}
	}
	return f
}

// A Trace is what the kernel knows of a connection on which nothing is heard.
type Trace struct {
	// TTL is that of the router's last segment that was dropped because it was too low;
	// 0 for none.
	TTL int
	// Unacknowledged is set when the router has acknowledged nothing of ours lately,
	// however often it was sent.
	Unacknowledged bool
}

// TooFar is the fault when segments of the router arrive with a TTL below the least
// that ttlSecurity lets in.
func TooFar(ttl, least int) *Fault {
	text := fmt.Sprintf("the router's packets arrive with TTL %d; ttlSecurity %d expects %d", ttl, 256-least, least)
	if least < 255 {
		text += " or more"
	}
	// Hosts and routers begin with 1, 64, 128 or 255.
	if ttl > 128 {
		return &Fault{Cause: TTLTooLow, Text: fmt.Sprintf("%s: the router is %d hops away", text, 256-ttl)}
	}
	return &Fault{Cause: TTLTooLow, Text: text + ": turn on GTSM (ttl-security) on the router, or leave ttlSecurity out"}
}

// Silence says what it may mean that a session in this state hears nothing.
func Silence(p lb.BGPPeer, state State, t Trace) *Fault {
	f := Fault{Cause: Silent}
	switch {
	case t.TTL > 0 && p.TTLSecurity > 0:
		f = *TooFar(t.TTL, 256-p.TTLSecurity)
	case t.Unacknowledged && p.TTLSecurity > 0:
		f.Text = fmt.Sprintf("the router acknowledges nothing that it is sent; ttlSecurity %d lets in only what arrives with a TTL of at least %d", p.TTLSecurity, 256-p.TTLSecurity)
	case t.Unacknowledged:
		f.Text = "the router acknowledges nothing that it is sent; if it demands GTSM (ttl-security), set ttlSecurity"
	case state == OpenSent:
		f.Text = "the router has taken the connection and sends no OPEN"
	case state == OpenConfirm:
		f.Text = "the router does not confirm our OPEN"
	}
	if state == Established {
		f.Cause, f.Text = HoldTimerExpired, strings.TrimSuffix("hold timer expired: "+f.Text, ": ")
	}
	return &f
}

// Counters count what went through a session since its peer was configured.
type Counters struct {
	// MessagesIn and UpdatesIn are the router's; MalformedIn those of its
	// UPDATEs that are not well formed. All are swallowed.
	MessagesIn, UpdatesIn, MalformedIn uint64
	MessagesOut, UpdatesOut            uint64
	// Established counts how often the session came up, Flaps how often it fell
	// without our asking.
	Established, Flaps uint64
}

// A SessionView is what there is to tell about a session.
type SessionView struct {
	Peer  string
	State State
	// Fault is why the session is down, or why it fell last; nil before
	// anything went wrong.
	Fault *Fault
	// Since is when State was entered.
	Since time.Time
	// Retry is when the next attempt to connect will be made; zero otherwise.
	Retry time.Time
	// Local and Remote are the ends of the connection, while there is one.
	Local, Remote netip.AddrPort
	// Negotiated is what was agreed on, while Established.
	Negotiated *Negotiated
	// Routes is how many the router should have; Sent how many it was told,
	// counted on the wire. They differ while it is being told.
	Routes, Sent int
	// Unsendable are the routes for which there is no next hop, or that the session
	// has no words for.
	Unsendable map[lb.Family]int
	// NextHops are those of our routes, or why there is none, while Established.
	NextHops map[lb.Family]NextHop
	// Received is how many prefixes the router announces to us, for nothing;
	// TooMany is set when it is more than are counted.
	Received int
	TooMany  bool
	Counters Counters
	// BFD is the state of BFD, "Up" or "Down", empty when it is off; BFDFault is
	// why it is not running, or why it went down last.
	BFD, BFDFault string
}

// Lack moves n routes of a family from those that the router should have to those that
// it cannot be told.
func (v *SessionView) Lack(f lb.Family, n int) {
	if n == 0 {
		return
	}
	unsendable := map[lb.Family]int{f: n}
	for f, n := range v.Unsendable {
		unsendable[f] += n
	}
	v.Routes, v.Unsendable = v.Routes-n, unsendable
}

// SessionID returns the number of a session with this peer, as far as it carries routes
// of this family (FNV-1a, 32 bits: a name in a few billion has the same).
func SessionID(peer string, f lb.Family) lb.SessionID {
	return lb.SessionID(fnv(fnv(fnvBasis, peer), f.String()))
}

// Carrying returns the families whose routes a session carries: none unless it is
// established.
func Carrying(v SessionView) []lb.Family {
	if v.State != Established || v.Negotiated == nil {
		return nil
	}
	return slices.DeleteFunc(slices.Clone(v.Negotiated.Families), func(f lb.Family) bool { return v.Unsendable[f] > 0 })
}

// SessionIDs returns the numbers that a session has, ascending.
func SessionIDs(v SessionView) []lb.SessionID {
	var out []lb.SessionID
	for _, f := range Carrying(v) {
		out = append(out, SessionID(v.Peer, f))
	}
	slices.Sort(out)
	return out
}

const fnvBasis = 2166136261

func fnv(h uint32, text string) uint32 {
	for i := range len(text) {
		h = (h ^ uint32(text[i])) * 16777619
	}
	return h
}
