package world

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"github.com/belfrylb/belfry/internal/allocator"
	"github.com/belfrylb/belfry/internal/bgp"
	"github.com/belfrylb/belfry/internal/lb"
)

// A Verb says what becomes of an address of a Service.
type Verb string

// Verbs, the worst first.
const (
	// Cut: the Service loses the address without another, or no node announces it any
	// more.
	Cut Verb = "cut"
	// Orphaned: it keeps the address, which its pool hands out no more.
	Orphaned Verb = "orphaned"
	// Waits: it asks for an address and gets none.
	Waits Verb = "waits"
	// Refused: it asks to move to a node and cannot.
	Refused Verb = "refused"
	// Moves: another node announces the address, or it gets another one.
	Moves Verb = "moves"
	// Released: it goes, and its address is free.
	Released Verb = "released"
	// Gets: it gets an address.
	Gets Verb = "gets"
	// Announced: no node announced the address, and one will.
	Announced Verb = "announced"
	// Stays: nothing changes.
	Stays Verb = "stays"
)

// Verbs are all of them, in the order in which a plan lists them.
var Verbs = []Verb{Cut, Orphaned, Waits, Refused, Moves, Released, Gets, Announced, Stays}

// A Change is what becomes of one address of a Service, or of a Service that has none.
type Change struct {
	Verb    Verb   `json:"verb"`
	Service string `json:"service"`
	// Address is the one that it has, or gets. Its absence stands for none.
	Address string `json:"address,omitempty"`
	// From and To are nodes, or addresses where the address itself moves.
	From string `json:"from,omitempty"`
	To   string `json:"to,omitempty"`
	Why  string `json:"why,omitempty"`
}

// A RouterChange is what a router is told and not told any more, by all nodes.
type RouterChange struct {
	Peer      string        `json:"peer"`
	Withdrawn []RouteChange `json:"withdrawn,omitempty"`
	Added     []RouteChange `json:"added,omitempty"`
	// Changed are those whose attributes are others.
	Changed []RouteChange `json:"changed,omitempty"`
}

// A RouteChange is a route and the nodes that it is from.
type RouteChange struct {
	Route string   `json:"route"`
	Nodes []string `json:"nodes"`
}

// A Plan is the difference between two ends.
type Plan struct {
	Changes []Change       `json:"changes"`
	Routers []RouterChange `json:"routers,omitempty"`
	// Totals count the changes by verb; those of routes are paths: a route of a node.
	Totals          map[Verb]int `json:"totals"`
	RoutesWithdrawn int          `json:"routesWithdrawn"`
	RoutesAdded     int          `json:"routesAdded"`
	// Notes are what the plan leaves out, in sentences.
	Notes []string `json:"notes,omitempty"`
}

// Compare returns what differs between two ends of which the second has had something
// happen to it.
func Compare(before, after *Outcome) *Plan {
	c := &comparison{
		before: before, after: after,
		routed: [2]map[netip.Addr][]string{before.routed(), after.routed()},
		plan:   &Plan{Totals: map[Verb]int{}, Changes: []Change{}},
	}
	keys := slices.Collect(maps.Keys(before.Decisions))
	keys = slices.AppendSeq(keys, maps.Keys(after.Decisions))
	slices.SortFunc(keys, lb.ServiceKey.Compare)
	for _, key := range slices.Compact(keys) {
		c.service(key)
	}
	slices.SortStableFunc(c.plan.Changes, func(a, b Change) int {
		return cmp.Compare(slices.Index(Verbs, a.Verb), slices.Index(Verbs, b.Verb))
	})
	for _, change := range c.plan.Changes {
		c.plan.Totals[change.Verb]++
	}
	c.routers()
	c.plan.Notes = after.rebalancing
	return c.plan
}

type comparison struct {
	before, after *Outcome
	routed        [2]map[netip.Addr][]string
	plan          *Plan
}

func (c *comparison) add(change Change) { c.plan.Changes = append(c.plan.Changes, change) }

// service compares what a Service has.
func (c *comparison) service(key lb.ServiceKey) {
	was, is := c.before.Decisions[key], c.after.Decisions[key]
	_, remains := c.after.Decisions[key]
	var lost, kept, gained []allocator.Assignment
	for _, a := range was.Assignments {
		if slices.ContainsFunc(is.Assignments, func(b allocator.Assignment) bool { return b.Address == a.Address }) {
			kept = append(kept, a)
		} else {
			lost = append(lost, a)
		}
	}
	for _, a := range is.Assignments {
		if !slices.ContainsFunc(was.Assignments, func(b allocator.Assignment) bool { return b.Address == a.Address }) {
			gained = append(gained, a)
		}
	}
	name := key.String()
	if why := c.after.refused[key]; why != "" && c.before.refused[key] != why {
		c.add(Change{Verb: Refused, Service: name, Why: why})
	}
	for _, a := range kept {
		change := c.address(name, a.Address)
		i := slices.IndexFunc(is.Assignments, func(b allocator.Assignment) bool { return b.Address == a.Address })
		if is.Assignments[i].Orphan && !a.Orphan && change.Verb != Cut {
			_, why, _ := strings.Cut(is.Sentence(), "; ") // what comes before names the addresses
			change.Verb, change.Why = Orphaned, why
		}
		c.add(change)
	}
	for _, a := range lost {
		i := slices.IndexFunc(gained, func(b allocator.Assignment) bool { return lb.FamilyOf(a.Address) == lb.FamilyOf(b.Address) })
		switch {
		case i >= 0:
			c.add(Change{Verb: Moves, Service: name, Address: a.Address.String(), From: a.Address.String(), To: gained[i].Address.String(), Why: is.Sentence()})
			gained = slices.Delete(gained, i, i+1)
		case !remains || is.Reason == allocator.NotOurs:
			c.add(Change{Verb: Released, Service: name, Address: a.Address.String(), Why: "the Service asks for no address any more"})
		default:
			c.add(Change{Verb: Cut, Service: name, Address: a.Address.String(), Why: is.Sentence()})
		}
	}
	for _, a := range gained {
		to, why := c.announcer(1, a.Address), ""
		if to == "" {
			why = "nobody announces it: " + c.silence(a.Address)
		}
		c.add(Change{Verb: Gets, Service: name, Address: a.Address.String(), To: to, Why: cmp.Or(why, "from pool "+a.Pool)})
	}
	if waits := is.Reason.Waiting() && remains; waits {
		again := was.Reason == is.Reason && was.Sentence() == is.Sentence() && c.known(key)
		switch {
		case !again:
			c.add(Change{Verb: Waits, Service: name, Why: is.Sentence()})
		case len(is.Assignments) == 0:
			c.add(Change{Verb: Stays, Service: name, Why: "still waits: " + is.Sentence()})
		}
	}
}

func (c *comparison) known(key lb.ServiceKey) bool { _, known := c.before.Decisions[key]; return known }

// announcer says who announces an address, in words that tell one state from another;
// empty for none.
func (c *comparison) announcer(end int, a netip.Addr) string {
	o := [...]*Outcome{c.before, c.after}[end]
	if owner := o.Owners[a]; owner != "" {
		return "node " + owner
	}
	switch nodes := c.routed[end][a]; len(nodes) {
	case 0:
		return ""
	case 1:
		return "node " + nodes[0] + " by BGP"
	default:
		return fmt.Sprintf("%d nodes by BGP", len(nodes))
	}
}

// address compares who announces an address that a Service keeps.
func (c *comparison) address(service string, a netip.Addr) Change {
	was, is := c.announcer(0, a), c.announcer(1, a)
	change := Change{Verb: Stays, Service: service, Address: a.String(), From: was, To: is}
	switch {
	case was != "" && is == "":
		change.Verb, change.Why = Cut, c.silence(a)
	case was == "" && is == "":
		change.Why = "nobody announces it: " + c.silence(a)
	case was == "":
		change.Verb = Announced
	case c.before.Owners[a] != c.after.Owners[a]:
		change.Verb = Moves
	}
	return change
}

// silence says why no node announces an address after all.
func (c *comparison) silence(a netip.Addr) string {
	refusal := c.after.Index.Refusal(a)
	if sentence := refusal.Sentence(); sentence != "" {
		return strings.TrimSuffix(sentence, ".")
	}
	return "no node that may announce it has a live speaker with a usable interface, or an established session"
}

// routers compares what each router is told.
func (c *comparison) routers() {
	peers := slices.Collect(maps.Keys(c.before.Tables))
	peers = slices.AppendSeq(peers, maps.Keys(c.after.Tables))
	slices.Sort(peers)
	for _, peer := range slices.Compact(peers) {
		was, is := c.before.Tables[peer], c.after.Tables[peer]
		nodes := slices.Collect(maps.Keys(was))
		nodes = slices.AppendSeq(nodes, maps.Keys(is))
		slices.Sort(nodes)
		withdrawn, added, changed := map[string][]string{}, map[string][]string{}, map[string][]string{}
		for _, node := range slices.Compact(nodes) {
			d := bgp.Diff(was[node], is[node])
			for _, p := range d.Withdraw {
				withdrawn[p.String()] = append(withdrawn[p.String()], node)
				c.plan.RoutesWithdrawn++
			}
			for _, r := range d.Announce {
				if slices.ContainsFunc(was[node], func(b bgp.Route) bool { return b.Prefix == r.Prefix }) {
					changed[r.String()] = append(changed[r.String()], node)
					continue
				}
				added[r.String()] = append(added[r.String()], node)
				c.plan.RoutesAdded++
			}
		}
		if change := (RouterChange{peer, routeChanges(withdrawn), routeChanges(added), routeChanges(changed)}); len(withdrawn)+len(added)+len(changed) > 0 {
			c.plan.Routers = append(c.plan.Routers, change)
		}
	}
}

func routeChanges(by map[string][]string) (out []RouteChange) {
	for _, route := range slices.SortedFunc(maps.Keys(by), compareRoutes) {
		out = append(out, RouteChange{route, by[route]})
	}
	return out
}

// compareRoutes orders routes as they are written, by prefix.
func compareRoutes(a, b string) int {
	prefix := func(text string) netip.Prefix {
		text, _, _ = strings.Cut(text, " ")
		p, _ := netip.ParsePrefix(text) // which a route always begins with
		return p
	}
	return cmp.Or(bgp.ComparePrefix(prefix(a), prefix(b)), cmp.Compare(a, b))
}

// Fails reports whether a plan has something that is not wanted: "lost" stands for what
// is cut.
func (p *Plan) Fails(on []string) bool {
	return slices.ContainsFunc(on, func(what string) bool {
		if what == "lost" {
			return p.Totals[Cut] > 0
		}
		return p.Totals[Verb(what)] > 0
	})
}
