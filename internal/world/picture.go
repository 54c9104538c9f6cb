package world

import (
	"cmp"
	"net/netip"
	"slices"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/belfrylb/belfry/api/v1beta1"
	"github.com/belfrylb/belfry/internal/objects"
)

// A Picture is the status with every address, every session and every move that speakers
// remember.
type Picture struct {
	*Status
	Addresses []AddressPicture
	Sessions  []SessionPicture
	// Moves are how nodes came by addresses, the latest first.
	Moves []Move
}

// An AddressPicture is one address of Services.
type AddressPicture struct {
	Address  netip.Addr
	Services []string
	// Nodes answer for it by layer 2: one, unless something is wrong.
	Nodes []string
	// Since is when the first of them began, zero where that is not remembered, and How
	// how it came by the address.
	Since time.Time
	How   string
	// Told is what its Service is told about announcing it, and Well whether that is good.
	Told string
	Well bool
}

// A SessionPicture is the session of a node with a router.
type SessionPicture struct {
	Node, Peer, State string
	Since             time.Time
	Prefixes          int
	BFD, Error        string
	Well              bool
}

// A Move is how a node came by addresses.
type Move struct {
	At        time.Time
	Node, How string
	Count     int
	// Addresses are as many as are remembered, in the compact form of a SpeakerStatus.
	Addresses []string
}

// Picture returns how things stand, in full.
func (w *World) Picture() *Picture {
	p := &Picture{Status: w.Status()}
	w.pictureAddresses(p)
	for _, n := range w.Nodes() {
		o := w.speakers[n]
		if o == nil {
			continue
		}
		for _, t := range o.Status.Layer2.Transitions {
			p.Moves = append(p.Moves, Move{t.Since.Time, n, came(t.From, t.Cause), int(t.Count), t.Addresses})
		}
		for _, b := range o.Status.BGP.Sessions {
			is := SessionPicture{Node: n, Peer: b.Peer, State: string(b.State), Prefixes: int(b.PrefixesSent), BFD: cmp.Or(string(b.BFD), "-")}
			if !w.view.Believes(n) {
				is.State = "not known: its speaker is not heard"
			}
			if b.Since != nil {
				is.Since = b.Since.Time
			}
			if is.Well = is.State == string(v1beta1.SessionEstablished) || is.State == string(v1beta1.SessionShutdown); !is.Well {
				is.Error = cmp.Or(b.LastError, b.BFDError)
			}
			p.Sessions = append(p.Sessions, is)
		}
	}
	slices.SortStableFunc(p.Moves, func(a, b Move) int { return b.At.Compare(a.At) })
	return p
}

func (w *World) pictureAddresses(p *Picture) {
	nodes := map[netip.Addr][]string{}
	for _, r := range w.reports {
		if !w.view.Believes(r.Node) {
			continue
		}
		for _, a := range r.Answers {
			nodes[a] = append(nodes[a], r.Node)
		}
	}
	type start struct {
		since time.Time
		how   string
	}
	starts := map[string]map[netip.Addr]start{}
	for _, r := range w.reports {
		of := map[netip.Addr]start{}
		for i, t := range r.Transitions { // the latest last
			for _, a := range t.Addresses {
				of[a] = start{t.Since, came(t.From, w.speakers[r.Node].Status.Layer2.Transitions[i].Cause)}
			}
		}
		starts[r.Node] = of
	}
	at := map[netip.Addr]int{}
	for i := range w.Snapshot.Services {
		is := w.services[w.Snapshot.Services[i].Key]
		if is.Foreign || is.Released {
			continue
		}
		for _, a := range is.Assigned {
			n, shared := at[a]
			if !shared {
				n = len(p.Addresses)
				at[a] = n
				picture := AddressPicture{Address: a, Nodes: nodes[a], Well: true}
				slices.Sort(picture.Nodes)
				if len(picture.Nodes) > 0 {
					began := starts[picture.Nodes[0]][a]
					picture.Since, picture.How = began.since, began.how
				}
				p.Addresses = append(p.Addresses, picture)
			}
			of := &p.Addresses[n]
			of.Services = append(of.Services, is.Key.String())
			if c := is.Announced; of.Told == "" || c.Status != metav1.ConditionTrue {
				of.Told, of.Well = announced(c), of.Well && c.Status == metav1.ConditionTrue
			}
		}
	}
	slices.SortFunc(p.Addresses, func(a, b AddressPicture) int { return a.Address.Compare(b.Address) })
}

// announced is what a Service is told in short: how it is announced, or why it is not.
func announced(c objects.Condition) string {
	switch {
	case c == (objects.Condition{}):
		return "nothing is known yet"
	case c.Status != metav1.ConditionTrue:
		return c.Reason + ": " + c.Message
	default:
		return c.Reason
	}
}

// came says in short how a node came by an address.
func came(from string, cause v1beta1.TransitionCause) string {
	switch cause {
	case v1beta1.TransitionOwnerLost:
		return strings.TrimSpace("from lost " + from)
	case v1beta1.TransitionHandover:
		return strings.TrimSpace("from " + from)
	default:
		return "unowned"
	}
}
