package speaker

import (
	"context"
	"maps"
	"net/netip"
	"reflect"
	"slices"
	"sync"
	"time"

	"github.com/belfrylb/belfry/internal/announce"
	"github.com/belfrylb/belfry/internal/election"
	"github.com/belfrylb/belfry/internal/layer2"
	"github.com/belfrylb/belfry/internal/lb"
)

// A stranger is a station that is no speaker's and uses an address of ours.
//
// Two speakers never take each other for one. Every speaker's hardware addresses
// are known by gossip, of those that are gone, too; what gossip may not have told
// yet is waited for; and a node that was never met is asked, by the addresses
// that the API server knows of it, whether the station is its own.

const (
	// acquaintance is how long a station with an unknown hardware address is
	// given to turn out to be a speaker's: frames overtake gossip.
	acquaintance = time.Second
	// quarrel is how long a stranger must not have been heard to be reported
	// anew, and quarrels how many strangers are remembered.
	quarrel  = 10 * time.Minute
	quarrels = 4096
	// defendInterval is RFC 5227's DEFEND_INTERVAL: the least time between two
	// defences of an address.
	defendInterval = 10 * time.Second
	// unmet bounds how many nodes that were never heard are asked whether a
	// station is theirs, and atOnce how many of them at the same time.
	unmet  = 64
	atOnce = 8
)

// strangers are the stations that were taken for some, or may be.
type strangers struct {
	by map[stranger]*sighting
	// doubted are those that may be, the next to be judged first.
	doubted []stranger
	known   chan acquaintances
	asking  chan struct{} // full while no more may be asked about
}

type stranger struct {
	address netip.Addr
	mac     lb.MAC
}

// A sighting is what was heard of a stranger.
type sighting struct {
	last layer2.Heard
	// doubted until due, whether it is one; frames were counted meanwhile.
	doubted bool
	due     time.Time
	frames  int
}

// acquaintances are stations that turned out to be nodes'.
type acquaintances map[lb.MAC]lb.Node

func newStrangers() strangers {
	return strangers{by: map[stranger]*sighting{}, known: make(chan acquaintances), asking: make(chan struct{}, 4)}
}

// due returns when a doubt ends.
func (s *strangers) due() time.Time {
	if len(s.doubted) == 0 {
		return never
	}
	return s.by[s.doubted[0]].due
}

// remember makes room for one more, and reports whether there is some.
func (s *strangers) remember(now time.Time) bool {
	if len(s.by) >= quarrels {
		maps.DeleteFunc(s.by, func(_ stranger, at *sighting) bool { return !at.doubted && now.Sub(at.last.At) >= quarrel })
	}
	return len(s.by) < quarrels
}

// estrange takes note of a claim by a station that is not known.
func (s *Speaker) estrange(ctx context.Context, h layer2.Heard) {
	key := stranger{h.Address, h.MAC}
	at := s.strangers.by[key]
	switch {
	case at == nil && !s.strangers.remember(h.At):
		s.metrics.conflict(h.MAC, 1)
	case at == nil:
		s.strangers.by[key] = &sighting{last: h, doubted: true, due: h.At.Add(acquaintance), frames: 1}
		s.strangers.doubted = append(s.strangers.doubted, key)
		s.acquaint(ctx, h)
	case at.doubted:
		at.frames++
		at.last = h
	default:
		news := h.At.Sub(at.last.At) >= quarrel
		at.last = h
		s.metrics.conflict(h.MAC, 1)
		s.oppose(h, news)
	}
}

// judge ends the doubts whose time has come.
func (s *Speaker) judge(now time.Time) {
	for !now.Before(s.strangers.due()) {
		key := s.strangers.doubted[0]
		s.strangers.doubted = s.strangers.doubted[1:]
		at := s.strangers.by[key]
		if _, known := s.stations[key.mac]; known {
			delete(s.strangers.by, key)
			continue
		}
		at.doubted = false
		s.metrics.conflict(key.mac, at.frames)
		h := at.last
		h.At = now
		s.oppose(h, true)
	}
}

// oppose does what the policy says about a stranger's claim, and tells of it if
// it is news.
func (s *Speaker) oppose(h layer2.Heard, news bool) {
	v, _ := s.intent.Decision(h.Address)
	if v.Role == election.Backup {
		return
	}
	i := slices.IndexFunc(s.intent.Claims, func(c layer2.Claim) bool { return c.Address == h.Address })
	switch {
	case !s.acd.Cleared(h.Address):
		return // withheld already
	case v.Conflict == lb.ConflictWithhold && s.acd.Yields(h.At, h, s.intent.Claims[i].Interfaces):
		s.log.Warn("another station had our address first: giving way", "address", h.Address, "mac", h.MAC)
		s.wanted = true
		return // the condition tells
	case v.Conflict == lb.ConflictDefend && h.At.Sub(s.defended[h.Address]) >= defendInterval:
		s.defended[h.Address] = h.At
		s.metrics.defences.Inc()
		s.link.Defend(h.Address)
	}
	if news {
		s.log.Warn("another station uses our address", "address", h.Address, "mac", h.MAC, "kind", h.Kind)
		s.herald.quarrel(v.Services, h)
	}
}

// strange returns the nodes that were never met, and may have stations that are
// not known.
func (s *Speaker) strange() []lb.Node {
	var nodes []lb.Node
	for _, n := range s.nodes {
		if n.Name != s.cfg.Node && s.speakers[n.Name] == nil && len(nodes) < unmet {
			nodes = append(nodes, n)
		}
	}
	return nodes
}

// acquaint asks the nodes that were never met whether a station is theirs.
func (s *Speaker) acquaint(ctx context.Context, h layer2.Heard) {
	nodes := s.strange()
	if len(nodes) == 0 {
		return
	}
	select {
	case s.strangers.asking <- struct{}{}:
	default:
		return // whoever wants us to ask so much does not deserve it
	}
	s.errands.Go(func() {
		defer func() { <-s.strangers.asking }()
		if n, is := s.nodeOf(ctx, h, nodes); is {
			select {
			case s.strangers.known <- acquaintances{h.MAC: n}:
			case <-ctx.Done():
			}
		}
	})
}

// introduce takes note of stations that turned out to be nodes'.
func (s *Speaker) introduce(known acquaintances) {
	for mac, n := range known {
		s.stations[mac] = n.Name
		if s.speakers[n.Name] == nil {
			s.speakers[n.Name] = &station{address: n.Addresses[0]}
		}
	}
}

// nodeOf returns which of some nodes a station belongs to: its kernel answers
// for that node's address. It runs on a goroutine of its own.
func (s *Speaker) nodeOf(ctx context.Context, h layer2.Heard, nodes []lb.Node) (node lb.Node, is bool) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var (
		mu    sync.Mutex
		wg    sync.WaitGroup
		slots = make(chan struct{}, atOnce)
	)
	for q := range s.addressesOf(nodes, h.Interface) {
		wg.Go(func() {
			slots <- struct{}{}
			defer func() { <-slots }()
			if answered, err := s.link.Probe(ctx, h.Interface, q.address, h.MAC); err == nil && answered {
				mu.Lock()
				defer mu.Unlock()
				node, is = q.node, true
				cancel()
			}
		})
	}
	wg.Wait()
	return node, is
}

type nodeAddressOf struct {
	node    lb.Node
	address netip.Addr
}

// addressesOf yields the nodes' addresses on the segment of an interface.
func (s *Speaker) addressesOf(nodes []lb.Node, ifindex int) func(func(nodeAddressOf) bool) {
	return func(yield func(nodeAddressOf) bool) {
		for _, i := range s.link.Interfaces() {
			if i.Index != ifindex {
				continue
			}
			for _, n := range nodes {
				for _, a := range n.Addresses {
					if i.OnLink(a) && !yield(nodeAddressOf{n, a}) {
						return
					}
				}
			}
		}
	}
}

// serve takes note of the addresses that members claim: they are in service.
func (s *Speaker) serve(members []election.Member) {
	var since time.Time // long ago, for all we know at first
	now := time.Now()
	if !s.passed.IsZero() {
		since = now
	}
	for _, m := range members {
		// Claims are replaced, never changed, so that the same map has no news.
		if reflect.ValueOf(s.served[m.Node]).Pointer() == reflect.ValueOf(m.Claims).Pointer() {
			continue
		}
		s.served[m.Node] = m.Claims
		for a := range m.Claims {
			if !s.index.Uses(a) {
				continue // not any more, or not yet for all we know
			}
			if m.Node != s.cfg.Node { // what we claim we know
				s.acd.Serve(a, since)
			}
			s.holdoff.Claimed(now, a, m.Node)
		}
	}
}

// expect notes who is to claim what is in service and nobody claims.
func (s *Speaker) expect(now time.Time, members []election.Member) {
	claims := make(map[string]election.Claims, len(members))
	for _, m := range members {
		claims[m.Node] = m.Claims
	}
	for _, v := range s.intent.Decisions {
		if v.Role != election.Backup || v.Owner == "" || !claims[v.Owner][v.Address].None() || !s.acd.Served(v.Address) {
			continue
		}
		if !slices.ContainsFunc(members, func(m election.Member) bool { return !m.Claims[v.Address].None() }) {
			s.holdoff.Await(now, v.Address, v.Owner)
		}
	}
}

// adopt brings what is known to be in service up to date with the index, which
// replaces another, or none at first. What was announced when this speaker started
// is in service, even if nobody is left who does; of what changes later the claims
// tell. What comes into being later is left to the node where it is placed.
func (s *Speaker) adopt(before *announce.Index) {
	s.acd.Forget(s.index.Uses)
	s.holdoff.Forget(s.index.Uses)
	clear(s.served) // to be looked at again: claims may be older than news of what they are for
	if before != nil {
		now := time.Now()
		for a := range s.holdoff.New {
			s.holdoff.Leave(now, a, s.index.Placed(a))
		}
		for _, a := range s.index.Addresses() {
			if !before.Uses(a) && !s.acd.Served(a) {
				s.holdoff.Leave(now, a, s.index.Placed(a))
			}
		}
		return
	}
	for _, a := range s.index.Addresses() {
		for _, key := range s.index.Services(a) {
			if r, _ := s.herald.reporter.Announced(key); r.Announced {
				s.acd.Serve(a, time.Time{})
			}
		}
	}
}

// vet has the addresses vetted that this node is to claim and nobody serves.
func (s *Speaker) vet(now time.Time, at stage) {
	var wanted []layer2.Claim
	claims := s.intent.Claims
	for _, v := range s.intent.Decisions {
		if v.Role == election.Backup {
			continue
		}
		claim := claims[0] // one for each verdict that is no Backup's
		claims = claims[1:]
		switch {
		case v.Role != election.Owner || s.acd.Served(v.Address):
		case v.Conflict == lb.ConflictWithhold:
			wanted = append(wanted, claim)
		default:
			s.acd.Serve(v.Address, now)
		}
	}
	s.acd.Want(now, wanted)
	if at == present {
		s.revet = now
	}
}

// vetted is what came of an inquiry.
type vetted struct {
	inquiry layer2.Inquiry
	found   []layer2.Heard
	known   acquaintances
	err     error
}

// inquire asks what is due.
func (s *Speaker) inquire(ctx context.Context, now time.Time, at stage) {
	if now.Before(s.revet) {
		return
	}
	s.revet = never
	if at == leaving {
		return
	}
	ask, wake := s.acd.Next(now)
	if !wake.IsZero() {
		s.revet = wake
	}
	if len(ask) == 0 {
		return
	}
	stations := maps.Clone(s.stations)
	ours := func(m lb.MAC) bool { _, is := stations[m]; return is }
	nodes := s.strange()
	for _, q := range ask {
		s.errands.Go(func() {
			v := vetted{inquiry: q, known: acquaintances{}}
			v.found, v.err = s.link.Detect(ctx, q.Interface, q.Addresses, ours)
			for _, h := range v.found {
				if n, is := s.nodeOf(ctx, h, nodes); is {
					v.known[h.MAC] = n
				}
			}
			select {
			case s.vetted <- v:
			case <-ctx.Done():
			}
		})
	}
}

// settle takes in what came of an inquiry.
func (s *Speaker) settle(now time.Time, v vetted) {
	s.introduce(v.known)
	var unclear []netip.Addr
	found := slices.DeleteFunc(v.found, func(h layer2.Heard) bool {
		_, known := s.stations[h.MAC]
		if known {
			unclear = append(unclear, h.Address) // and a stranger may have been drowned
		}
		return known
	})
	if v.err != nil {
		s.log.Warn("cannot ask whether addresses are in use", "addresses", len(v.inquiry.Addresses), "err", v.err)
		unclear = v.inquiry.Addresses
	}
	before := s.acd.Withheld()
	s.acd.Answer(now, v.inquiry, found, unclear)
	for _, h := range found {
		s.metrics.conflict(h.MAC, 1)
		if by := before[h.Address]; by.MAC != h.MAC {
			s.log.Warn("another station uses an address that is to be announced: withholding it", "address", h.Address, "mac", h.MAC, "reason", announce.AddressConflict.String())
		}
	}
	s.revet, s.wanted = now, true
}
