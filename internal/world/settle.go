package world

import (
	"maps"
	"net/netip"
	"slices"

	"github.com/belfrylb/belfry/internal/allocator"
	"github.com/belfrylb/belfry/internal/announce"
	"github.com/belfrylb/belfry/internal/bgp"
	"github.com/belfrylb/belfry/internal/election"
	"github.com/belfrylb/belfry/internal/eligibility"
	"github.com/belfrylb/belfry/internal/lb"
	"github.com/belfrylb/belfry/internal/placement"
	"github.com/belfrylb/belfry/internal/report"
)

// An Outcome is where a cluster goes if nothing else happens.
type Outcome struct {
	// Snapshot is the cluster then.
	Snapshot  lb.Snapshot
	Decisions map[lb.ServiceKey]allocator.Decision
	Pools     map[string]allocator.PoolDecision
	Index     *announce.Index
	// Places are the nodes where layer 2 is to have each address, and Owners those that
	// answer for them.
	Places, Owners map[netip.Addr]string
	// Tables are the routes of each session, by peer and node.
	Tables map[string]map[string][]bgp.Route
	// refused are requests to move that cannot be met, in words.
	refused map[lb.ServiceKey]string
	// rebalancing says which advertisements are being rebalanced, which moves addresses
	// beside what is here.
	rebalancing []string
}

// rounds bounds how often a world is planned anew. Each round carries out what the last
// one decided, as writes do; two are enough unless Services hand addresses on.
const rounds = 16

// Settle returns where the cluster goes if nothing else happens but that some nodes are
// lost at once.
func (w *World) Settle(lost ...string) *Outcome {
	o := &Outcome{Snapshot: w.Snapshot, Places: map[netip.Addr]string{}, Owners: map[netip.Addr]string{}, refused: map[lb.ServiceKey]string{}}
	o.Snapshot.Services, o.Snapshot.Pools = slices.Clone(w.Snapshot.Services), slices.Clone(w.Snapshot.Pools)
	o.Snapshot.Nodes = slices.Clone(w.Snapshot.Nodes)
	for i := range o.Snapshot.Nodes {
		if n := &o.Snapshot.Nodes[i]; slices.Contains(lost, n.Name) {
			n.NotReady = true
		}
	}
	for i := range o.Snapshot.Services {
		s := &o.Snapshot.Services[i]
		s.Endpoints = lb.Endpoints{IPv4: without(s.Endpoints.IPv4, lost), IPv6: without(s.Endpoints.IPv6, lost)}
	}
	w.allocate(o)
	o.Snapshot.Services = slices.DeleteFunc(o.Snapshot.Services, func(s lb.Service) bool { return s.Foreign || len(s.Assigned) == 0 })
	w.place(o)
	if w.reporting() {
		o.elect(w.members(lost))
	} else {
		o.presume(lost)
	}
	w.advertise(o, lost)
	o.rebalancing = w.rebalancing()
	return o
}

// without leaves out the endpoints of some nodes.
func without(e lb.NodeEndpoints, nodes []string) lb.NodeEndpoints {
	if len(nodes) == 0 || e == nil {
		return e
	}
	out := maps.Clone(e)
	for _, n := range nodes {
		delete(out, n)
	}
	return out
}

// allocate plans until nothing changes. What a Service is given up shows as free in the
// next round, as it does once it is written.
func (w *World) allocate(o *Outcome) {
	for range rounds {
		r := allocator.Plan(allocator.World{
			Pools: o.Snapshot.Pools, Services: o.Snapshot.Services, Nodes: o.Snapshot.Nodes, External: w.external, Now: w.Now,
		})
		o.Decisions, o.Pools = map[lb.ServiceKey]allocator.Decision{}, map[string]allocator.PoolDecision{}
		changed := false
		for _, p := range r.Pools {
			o.Pools[p.Pool] = p
		}
		for i, d := range r.Services { // both are sorted by key
			s := &o.Snapshot.Services[i]
			o.Decisions[d.Service] = d
			if !s.Foreign && d.Changes(*s) {
				changed = true
				*s = d.Apply(*s)
			}
		}
		o.Snapshot.Pools = slices.DeleteFunc(o.Snapshot.Pools, func(p lb.Pool) bool {
			gone := p.Deleting && !o.Pools[p.Name].InUse
			changed = changed || gone
			return gone
		})
		for i := range o.Snapshot.Pools {
			p := &o.Snapshot.Pools[i]
			p.Freed = o.Pools[p.Name].Freed
		}
		if !changed {
			return
		}
	}
}

// place chooses nodes for addresses, as the controller does, and records them.
func (w *World) place(o *Outcome) {
	o.Index = announce.NewIndex(o.Snapshot, w.options())
	sites := o.Index.Sites()
	inService := map[netip.Addr]bool{}
	for i := range o.Snapshot.Services {
		is := &o.Snapshot.Services[i]
		was := w.services[is.Key]
		if was.InService() {
			for _, a := range was.Assigned {
				inService[a] = true
			}
		}
		w.move(o, is, sites)
	}
	for i := range sites {
		sites[i].InService = inService[sites[i].Address]
	}
	for _, d := range placement.Plan(nil, sites) {
		o.Places[d.Address] = d.Node
	}
	for i := range o.Snapshot.Services {
		s := &o.Snapshot.Services[i]
		s.Placed = make([]string, len(s.Assigned))
		for n, a := range s.Assigned {
			s.Placed[n] = o.Places[a]
		}
	}
	o.Index = announce.NewIndex(o.Snapshot, w.options())
}

// move honors a Service's request to move, or says why it cannot.
func (w *World) move(o *Outcome, s *lb.Service, sites []placement.Address) {
	if s.Request.Move == "" || s.Request.Move == s.Moved.Token {
		return
	}
	if why := placement.Refuses(sites, s.Assigned, s.Request.MoveTo); why != "" {
		o.refused[s.Key] = why
		return
	}
	for _, a := range s.Assigned {
		if site := placement.Find(sites, a); site != nil {
			site.Placed = s.Request.MoveTo
		}
	}
}

// members are the speakers that live and are not lost, with what they answer for. A
// claim to an address that is recorded elsewhere is offered: the node of the record takes
// it over.
func (w *World) members(lost []string) []election.Member {
	var out []election.Member
	for _, r := range w.reports {
		if !w.view.Believes(r.Node) || slices.Contains(lost, r.Node) {
			continue
		}
		m := election.Member{Node: r.Node, State: r.State, Interfaces: r.Interfaces, Claims: election.Claims{}}
		for _, a := range r.Answers {
			m.Claims[a] = election.Claim{Quorum: election.Majority, Epoch: 1}
		}
		out = append(out, m)
	}
	return out
}

// elect finds the owner of each address by layer 2.
func (o *Outcome) elect(members []election.Member) {
	for i := range members {
		for a := range members[i].Claims {
			if place := o.Places[a]; place != "" && place != members[i].Node {
				members[i].Claims[a] = election.Claim{Quorum: election.Offered, Epoch: 1}
			}
		}
	}
	for _, d := range announce.Decide(o.Index, members, nil, "").Decisions {
		switch unclaimed := !slices.ContainsFunc(members, func(m election.Member) bool { return m.Node == d.Owner && !m.Claims[d.Address].None() }); {
		case d.Owner == "":
		case unclaimed && d.Fit: // no node has it: the node where it is placed goes first
			o.Owners[d.Address] = d.Placed
		default:
			o.Owners[d.Address] = d.Owner
		}
	}
}

// presume has each address where it is placed, or, where that node is lost, on the first
// that configuration lets have it: no speaker says who lives and on which interfaces.
func (o *Outcome) presume(lost []string) {
	for a, node := range o.Places {
		var others []string
		permitted := false
		for _, r := range o.Index.Candidates(a) {
			if r.Reason == eligibility.Eligible && !slices.Contains(lost, r.Node) {
				others = append(others, r.Node)
				permitted = permitted || r.Node == node
			}
		}
		switch {
		case permitted:
			o.Owners[a] = node
		case len(others) > 0:
			o.Owners[a] = election.First(a, others)
		}
	}
}

// advertise finds the routes that routers are told. Where the speakers report, a session
// tells nothing unless it is established, but one that a speaker does not know yet is
// taken for one that will be.
func (w *World) advertise(o *Outcome, lost []string) {
	o.Tables = map[string]map[string][]bgp.Route{}
	if len(o.Snapshot.BGPPeers) == 0 {
		return
	}
	reports := map[string]*report.Report{}
	for i := range w.reports {
		if r := &w.reports[i]; w.view.Believes(r.Node) {
			reports[r.Node] = r
		}
	}
	for _, n := range o.Snapshot.Nodes {
		r := reports[n.Name]
		if slices.Contains(lost, n.Name) || r == nil && w.reporting() {
			continue
		}
		options := bgp.Options{Options: w.options()}
		if n.Drain {
			options.Phase = bgp.Left
		}
		for _, s := range bgp.Decide(o.Snapshot, n.Name, options).Sessions {
			if s.Peer.Shutdown || r != nil && slices.ContainsFunc(r.Sessions, func(is report.Session) bool { return is.Peer == s.Peer.Name && !is.Established }) {
				continue
			}
			if o.Tables[s.Peer.Name] == nil {
				o.Tables[s.Peer.Name] = map[string][]bgp.Route{}
			}
			o.Tables[s.Peer.Name][n.Name] = s.Routes
		}
	}
}

// routed returns the nodes that advertise an address to some router, ascending.
func (o *Outcome) routed() map[netip.Addr][]string {
	established := map[string][]lb.SessionID{}
	for peer, tables := range o.Tables {
		for node := range tables {
			for _, f := range [...]lb.Family{lb.IPv4, lb.IPv6} {
				established[node] = append(established[node], bgp.SessionID(peer, f))
			}
		}
	}
	out := map[netip.Addr][]string{}
	for _, a := range o.Index.Addresses() {
		if nodes := o.Index.Advertisers(a, established); len(nodes) > 0 {
			out[a] = nodes
		}
	}
	return out
}
