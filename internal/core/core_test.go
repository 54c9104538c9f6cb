package core

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/belfrylb/belfry/internal/election"
	"github.com/belfrylb/belfry/internal/layer2"
	"github.com/belfrylb/belfry/internal/lb"
	"github.com/belfrylb/belfry/internal/lb/lbtest"
	"github.com/belfrylb/belfry/internal/proof"
	"github.com/belfrylb/belfry/internal/transcript"
)

// TestTranscripts tells what the Core of node a does. What happens is followed by
// Settle; sleep settles whenever the Core asked for it.
//
//	configure ADDR[@PLACE].. [nodes=N,..] [N=ADDR,..] [drained=N,..] [policy=defend|ignore] [announced]
//	member NODE STATE [claims=ADDR,..] [offers=ADDR,..]
//	gone NODE
//	carrier on|off
//	hear ADDR STATION KIND     STATION is a node, or a hardware address
//	detected IFINDEX [ADDR=STATION]...    answers the question last asked there
//	identified STATION [NODE]
//	answered ADDR yes|no       answers the question for it that is under way
//	proofs                     from here on the segment is asked; at the beginning only
//	proved [ADDR=STATION]...              answers the questions put last; STATION may be "owner"
//	leave
//	sleep DUR
//	+LINE                      the same, and the next line happens before it settles
//
// A node has the claims of its gossip as soon as it has told them, and there is time
// between any two lines for what has to wait for the last decision.
func TestTranscripts(t *testing.T) {
	transcript.Run(t, "testdata/*.txt", func(t *testing.T) transcript.World { return newConversation(t) })
}

var start = time.Unix(1000, 0)

// A conversation is between a Core and a transcript.
type conversation struct {
	t       *testing.T
	core    *Core
	now     time.Time
	next    time.Time
	members []election.Member
	own     election.OwnClaims
	asked   map[int]layer2.Inquiry
	asking  []Ask
	proving []proof.Question
	proofs  []proof.Result
	// response is the last that was shown.
	response *proof.Response
}

// nodes are those of all transcripts, in the order of their hosts.
var nodes = []string{"a", "b", "c"}

func newConversation(t *testing.T) *conversation {
	c := &conversation{t: t, core: New(Config{Node: "a", Gossip: netip.AddrFrom4([4]byte{192, 0, 2, 11})}), now: start, asked: map[int]layer2.Inquiry{}}
	c.core.SetInterfaces(interfacesOf("a", true))
	return c
}

func host(node string) byte { return byte(11 + slices.Index(nodes, node)) }

func interfacesOf(node string, carrier bool) []lb.Interface {
	return []lb.Interface{{
		Index: 2, Name: "eth0", MAC: station(node), Up: true, Carrier: carrier,
		Addresses: []netip.Prefix{
			netip.PrefixFrom(netip.AddrFrom4([4]byte{192, 0, 2, host(node)}), 24),
			netip.MustParsePrefix(fmt.Sprintf("2001:db8::%d/64", host(node))),
		},
	}}
}

func station(name string) lb.MAC {
	if mac, err := lb.ParseMAC(name); err == nil {
		return mac
	}
	return lb.MAC{2, 5: host(name)}
}

func (c *conversation) addresses(list string) (out []netip.Addr) {
	for a := range strings.SplitSeq(list, ",") {
		if a != "" {
			out = append(out, netip.MustParseAddr(a))
		}
	}
	return out
}

// options splits words into values by name, and the rest.
func options(words []string) (rest []string, by map[string]string) {
	by = map[string]string{}
	for _, w := range words {
		if name, value, is := strings.Cut(w, "="); is && !strings.ContainsAny(name, ".:") {
			by[name] = value
		} else {
			rest = append(rest, w)
		}
	}
	return rest, by
}

// Line does what a line says, settles, and returns the effects.
func (c *conversation) Line(line string) string {
	line, more := strings.CutPrefix(line, "+")
	words, by := options(strings.Fields(line))
	verb, words := words[0], words[1:]
	switch verb {
	case "configure":
		c.configure(words, by)
	case "member":
		claims := election.Claims{}
		for _, a := range c.addresses(by["claims"]) {
			claims[a] = election.Claim{Quorum: election.Majority, Epoch: 5}
		}
		for _, a := range c.addresses(by["offers"]) {
			claims[a] = election.Claim{Quorum: election.Offered, Epoch: 5}
		}
		states := map[string]election.State{"alive": election.Alive, "suspected": election.Suspected, "cut": election.Cut, "leaving": election.Leaving, "joining": election.Joining}
		state, known := states[words[1]]
		if !known {
			c.t.Fatalf("%q: no such state", line)
		}
		c.member(words[0], state, claims)
		c.core.SetMembers(c.now, slices.Clone(c.members))
	case "gone":
		c.members = slices.DeleteFunc(c.members, func(m election.Member) bool { return m.Node == words[0] })
		c.core.SetMembers(c.now, slices.Clone(c.members))
	case "carrier":
		c.core.SetInterfaces(interfacesOf("a", words[0] == "on"))
	case "hear":
		kinds := map[string]layer2.HeardKind{}
		for _, k := range layer2.HeardKinds {
			kinds[k.String()] = k
		}
		c.core.Hear(c.now, layer2.Heard{Address: netip.MustParseAddr(words[0]), MAC: station(words[1]), Interface: 2, Kind: kinds[words[2]]})
	case "detected":
		var found []layer2.Heard
		for _, w := range words[1:] {
			a, by, _ := strings.Cut(w, "=")
			found = append(found, layer2.Heard{At: c.now, Address: netip.MustParseAddr(a), MAC: station(by), Interface: 2, Kind: layer2.HeardReply})
		}
		c.core.Detected(c.now, c.asked[2], found, words[0] == "failed")
	case "identified":
		is := NodeAddress{}
		if len(words) > 1 {
			is = NodeAddress{words[1], netip.AddrFrom4([4]byte{192, 0, 2, host(words[1])})}
		}
		c.core.Identified(c.now, Station{2, station(words[0])}, is)
	case "answered":
		i := slices.IndexFunc(c.asking, func(q Ask) bool { return q.Address == netip.MustParseAddr(words[0]) })
		if i < 0 {
			c.t.Fatalf("%q: nobody was asked", line)
		}
		q := c.asking[i]
		c.asking = slices.Delete(c.asking, i, i+1)
		c.core.Asked(c.now, q, words[1] == "yes")
	case "proofs":
		c.core = New(Config{Node: "a", Gossip: netip.AddrFrom4([4]byte{192, 0, 2, host("a")}), ProofInterval: 5 * time.Minute})
		c.core.SetInterfaces(interfacesOf("a", true))
	case "request":
		c.core.Request(strings.Join(words, " "))
	case "unasked":
		for _, q := range c.proving {
			c.core.Proved(c.now, q, nil, true)
		}
		c.proving = nil
	case "proved":
		c.prove(words)
	case "leave":
		c.core.Leave(c.now)
	case "sleep":
		return c.sleep(words[0])
	default:
		c.t.Fatalf("%q: no such line", line)
	}
	if more {
		return ""
	}
	return c.settle()
}

// prove answers all questions that were put.
func (c *conversation) prove(words []string) {
	var answers []proof.Answer
	for _, w := range words {
		a, by, _ := strings.Cut(w, "=")
		answers = append(answers, proof.Answer{Address: netip.MustParseAddr(a), MAC: station(by)})
	}
	for _, q := range c.proving {
		c.core.Proved(c.now, q, slices.DeleteFunc(slices.Clone(answers), func(h proof.Answer) bool { return !slices.Contains(q.Addresses(), h.Address) }), false)
	}
	c.proving = nil
}

func (c *conversation) member(node string, state election.State, claims election.Claims) {
	c.members = slices.DeleteFunc(c.members, func(m election.Member) bool { return m.Node == node })
	c.members = append(c.members, election.Member{
		Node: node, Address: netip.AddrFrom4([4]byte{192, 0, 2, host(node)}), State: state, Interfaces: interfacesOf(node, true), Claims: claims,
	})
	slices.SortFunc(c.members, func(a, b election.Member) int { return strings.Compare(a.Node, b.Node) })
}

func (c *conversation) configure(words []string, by map[string]string) {
	ad := lb.L2Advertisement{Name: "all"}
	switch by["policy"] {
	case "defend":
		ad.ConflictPolicy = lb.ConflictDefend
	case "ignore":
		ad.ConflictPolicy = lb.ConflictIgnore
	}
	s := lb.Snapshot{Pools: []lb.Pool{lbtest.Everything()}, L2Advertisements: []lb.L2Advertisement{ad}}
	names := nodes
	if by["nodes"] != "" {
		names = strings.Split(by["nodes"], ",")
	}
	for _, n := range names {
		addresses := []netip.Addr{netip.AddrFrom4([4]byte{192, 0, 2, host(n)})}
		if at, moved := by[n]; moved {
			addresses = c.addresses(at)
		}
		s.Nodes = append(s.Nodes, lb.Node{
			Name: n, Addresses: addresses,
			Drain: slices.Contains(strings.Split(by["drained"], ","), n),
		})
	}
	announced := slices.Contains(words, "announced")
	for i, w := range words {
		if w == "announced" {
			continue
		}
		a, place, _ := strings.Cut(w, "@")
		s.Services = append(s.Services, lb.Service{
			Key: lb.ServiceKey{Namespace: "web", Name: fmt.Sprint(i)}, Assigned: []netip.Addr{netip.MustParseAddr(a)}, Placed: []string{place},
			Announced: announced, Endpoints: lb.Endpoints{IPv4: lb.NodeEndpoints{"": {Ready: 1}}, IPv6: lb.NodeEndpoints{"": {Ready: 1}}},
		})
	}
	c.core.Configure(c.now, s)
}

func (c *conversation) sleep(text string) string {
	d, err := time.ParseDuration(text)
	if err != nil {
		c.t.Fatal(err)
	}
	var out strings.Builder
	for end := c.now.Add(d); ; {
		if c.next.IsZero() || c.next.After(end) {
			c.now = end
			break
		}
		c.now = c.next
		out.WriteString(c.settle())
	}
	return out.String()
}

// settle settles until there is nothing more to do now, and returns the effects.
func (c *conversation) settle() string {
	var out strings.Builder
	for again := true; again; {
		e := c.core.Settle(c.now)
		c.next = e.Next
		out.WriteString(c.effects(e))
		again = e.Gossip != nil && !e.Left
		if again { // gossip tells this node what it has told
			c.own.Set(e.Gossip.Owned, election.Majority)
			c.own.Offer(e.Gossip.Offered)
			if i, listed := find(c.members, "a"); listed {
				c.members[i].Claims = c.own.Claims()
				c.core.SetMembers(c.now, slices.Clone(c.members))
			}
		}
		if !again && !e.Next.IsZero() && e.Next.Sub(c.now) <= Pause {
			c.now, again = e.Next, true // a decision that has to wait for the last one
		}
	}
	return out.String()
}

func (c *conversation) effects(e Effects) string {
	var b strings.Builder
	say := func(format string, args ...any) {
		fmt.Fprintf(&b, "%v "+format+"\n", append([]any{c.now.Sub(start)}, args...)...)
	}
	if e.Claims != nil {
		var all []string
		for _, claim := range e.Claims {
			all = append(all, fmt.Sprintf("%v%v", claim.Address, claim.Interfaces))
		}
		say("answer for %s", strings.Join(all, " "))
	}
	if e.Move.IsValid() {
		say("gossip at %v", e.Move)
	}
	if g := e.Gossip; g != nil {
		leaving := ""
		if g.Leaving {
			leaving = ", leaving"
		}
		say("gossip %d interfaces, claims %v, offers %v%s", len(g.Interfaces), g.Owned, g.Offered, leaving)
	}
	for _, a := range e.Announce {
		say("announce %v", a)
	}
	for _, a := range e.Defend {
		say("defend %v", a)
	}
	for _, q := range e.Detect {
		c.asked[q.Interface] = q.Inquiry
		say("detect %v on %d", q.Addresses, q.Interface)
	}
	for _, q := range e.Identify {
		say("identify %v on %d: %v", q.MAC, q.Interface, q.Candidates)
	}
	for _, q := range e.Ask {
		c.asking = append(c.asking, q)
		say("ask %v for %v", q.MAC, q.Address)
	}
	for _, q := range e.Prove {
		c.proving = append(c.proving, q)
		say("prove %v on %d", q.Addresses(), q.Interface)
	}
	for _, q := range e.Knock {
		say("knock at %v, %v", q.MAC, q.Address)
	}
	for _, t := range e.Transitions {
		text := ""
		if t.From != "" {
			text += " from " + t.From
		}
		if t.To != "" {
			text += " to " + t.To
		}
		if t.Silence > 0 {
			text += fmt.Sprintf(" after %v", t.Silence)
		}
		say("%v %v, %v%s", t.Kind, t.Address, t.Cause, text)
	}
	for _, x := range e.Conflicts {
		node := ""
		if x.Node != "" {
			node = " of node " + x.Node
		}
		say("conflict over %v with %v%s, withheld %v", x.Address, x.MAC, node, x.Withheld)
	}
	if e.View != nil && !slices.EqualFunc(c.proofs, e.View.Proofs, proof.Result.Equal) {
		for _, v := range e.View.Proofs {
			var by []string
			for _, s := range v.By {
				by = append(by, fmt.Sprintf("%v %v %s", s.MAC, s.Voice, s.Node))
			}
			say("%v of %s: %v %s", v.Address, v.Owner, v.Kind, strings.Join(by, ", "))
		}
		c.proofs = e.View.Proofs
	}
	if e.View != nil && e.View.Response != c.response {
		if c.response = e.View.Response; c.response != nil {
			var heard []string
			for _, h := range c.response.Heard {
				heard = append(heard, fmt.Sprintf("%v %v %s", h.MAC, h.Voice, h.Node))
			}
			say("%q: on %q [%s] %s", c.response.Request, c.response.Interface, strings.Join(heard, ", "), c.response.Problem)
		}
	}
	if e.Left {
		say("left")
	}
	return b.String()
}

// Which sightings are forgotten when there is need of room, by looking at all.
func TestTheOldestSightingsAreForgotten(t *testing.T) {
	forgotten := 0
	for seed := range uint64(100) {
		r := rand.New(rand.NewPCG(seed, 1))
		c := newConversation(t)
		c.Line("configure 192.0.2.1 2001:db8::1 nodes=a announced")
		c.Line("member a alive")
		for range 200 {
			tracker := &c.core.conflicts
			if r.IntN(3) == 0 {
				c.sleep((time.Duration(1+r.IntN(int(ConflictPause/time.Second)/2)) * time.Second).String())
			}
			if r.IntN(4) == 0 {
				var want []use
				for key, s := range tracker.by {
					if s.suspected || c.now.Sub(s.last.At) < ConflictPause {
						want = append(want, key)
					}
				}
				forgotten += len(tracker.by) - len(want)
				tracker.remembers(c.now)
				if len(tracker.by) != len(want) || tracker.order.Len() != len(want) {
					t.Fatalf("seed %d: %d sightings in an order of %d, want %d", seed, len(tracker.by), tracker.order.Len(), len(want))
				}
				for _, key := range want {
					if tracker.by[key] == nil {
						t.Fatalf("seed %d: %v is forgotten", seed, key)
					}
				}
			}
			a := []netip.Addr{netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8::1")}[r.IntN(2)]
			c.core.Hear(c.now, layer2.Heard{Address: a, MAC: lb.MAC{0xde, 5: byte(r.IntN(20))}, Interface: 2, Kind: layer2.HeardReply})
			c.settle()
		}
	}
	if forgotten < 100 {
		t.Errorf("only %d were ever forgotten", forgotten)
	}
}

func TestForeignStationsDoNotFillTheMemory(t *testing.T) {
	c := newConversation(t)
	c.Line("configure 192.0.2.1 2001:db8::1 nodes=a announced")
	c.Line("member a alive")
	for _, a := range []netip.Addr{netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8::1")} {
		for i := range conflictsMost {
			c.core.Hear(c.now, layer2.Heard{Address: a, MAC: lb.MAC{0xde, 3: byte(i >> 16), 4: byte(i >> 8), 5: byte(i)}, Interface: 2, Kind: layer2.HeardReply})
		}
	}
	if n := len(c.core.conflicts.by); n != conflictsMost {
		t.Errorf("%d remembered, want %d", n, conflictsMost)
	}
	c.settle()
	c.sleep((Acquaintance + ConflictPause).String())
	c.core.Hear(c.now, layer2.Heard{Address: netip.MustParseAddr("192.0.2.1"), MAC: lb.MAC{0xbe}, Interface: 2, Kind: layer2.HeardReply})
	if n := len(c.core.conflicts.by); n != 1 {
		t.Errorf("%d remembered after %v", n, ConflictPause)
	}
}
