package world

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/belfrylb/belfry/api/v1beta1"
	"github.com/belfrylb/belfry/internal/allocator"
	"github.com/belfrylb/belfry/internal/announce"
	"github.com/belfrylb/belfry/internal/bgp"
	"github.com/belfrylb/belfry/internal/election"
	"github.com/belfrylb/belfry/internal/eligibility"
	"github.com/belfrylb/belfry/internal/lb"
	"github.com/belfrylb/belfry/internal/objects"
	"github.com/belfrylb/belfry/internal/origin"
	"github.com/belfrylb/belfry/internal/placement"
	"github.com/belfrylb/belfry/internal/proof"
	"github.com/belfrylb/belfry/internal/report"
)

// An Explanation says how something came about, in sections.
type Explanation struct {
	Subject  string    `json:"subject"`
	Sections []Section `json:"sections"`
	// Well is set when there is no problem with it.
	Well bool `json:"well"`
	// hints are what could be done although all is well.
	hints []string
}

// A Section is a part of it: sentences, then a table whose first row has the names of its
// columns.
type Section struct {
	Title string     `json:"title"`
	Lines []string   `json:"lines,omitempty"`
	Table [][]string `json:"table,omitempty"`
}

func (e *Explanation) add(title string, lines ...string) *Section {
	e.Sections = append(e.Sections, Section{Title: title, Lines: lines})
	return &e.Sections[len(e.Sections)-1]
}

// hint has advise say what could be done, which is no problem.
func (e *Explanation) hint(line string) { e.hints = append(e.hints, line) }

// advise adds what to do about problems, and the hints.
func (e *Explanation) advise(lines ...string) {
	lines = slices.DeleteFunc(lines, func(l string) bool { return l == "" })
	e.Well = e.Well && len(lines) == 0
	lines = append(lines, e.hints...)
	slices.Sort(lines)
	if lines = slices.Compact(lines); len(lines) > 0 {
		e.add("What to do", lines...)
	}
}

// judged is an explanation of some objects, by the names that status gives them: it is not
// well as long as status has a problem with one of them.
func (w *World) judged(e *Explanation, names ...string) *Explanation {
	e.Well = e.Well && !slices.ContainsFunc(w.Status().Problems, func(p Problem) bool { return slices.Contains(names, p.Object) })
	return e
}

// A Target names what is to be explained: a kind of service, address, pool, peer or node,
// and its name. An empty kind is whichever has the name.
type Target struct{ Kind, Name string }

// Explain explains a target. The namespace is that of Services that are named without.
func (w *World) Explain(t Target, namespace string) (*Explanation, error) {
	if a, err := netip.ParseAddr(t.Name); err == nil && (t.Kind == "" || t.Kind == "address") {
		return w.explainAddress(a.Unmap()), nil
	}
	key := lb.ServiceKey{Namespace: namespace, Name: t.Name}
	if ns, name, ok := strings.Cut(t.Name, "/"); ok {
		key = lb.ServiceKey{Namespace: ns, Name: name}
	}
	found := map[string]func() *Explanation{}
	if i := slices.IndexFunc(w.objects.Services, func(s *corev1.Service) bool { return s.Namespace == key.Namespace && s.Name == key.Name }); i >= 0 {
		found["service"] = func() *Explanation {
			return w.judged(w.explainService(key, w.objects.Services[i]), "service/"+key.String())
		}
	}
	if i := slices.IndexFunc(w.objects.Pools, func(p *v1beta1.IPAddressPool) bool { return p.Name == t.Name }); i >= 0 {
		found["pool"] = func() *Explanation {
			return w.judged(w.explainPool(w.objects.Pools[i]), "pool/"+t.Name, "ipaddresspool/"+t.Name)
		}
	}
	if i := slices.IndexFunc(w.objects.BGPPeers, func(p *v1beta1.BGPPeer) bool { return p.Name == t.Name }); i >= 0 {
		found["peer"] = func() *Explanation {
			return w.judged(w.explainPeer(w.objects.BGPPeers[i]), "peer/"+t.Name, "bgppeer/"+t.Name)
		}
	}
	if i := slices.IndexFunc(w.Snapshot.Nodes, func(n lb.Node) bool { return n.Name == t.Name }); i >= 0 {
		found["node"] = func() *Explanation { return w.judged(w.explainNode(w.Snapshot.Nodes[i]), "node/"+t.Name) }
	}
	var kinds []string
	for _, kind := range []string{"service", "pool", "peer", "node"} {
		if found[kind] != nil && (t.Kind == "" || t.Kind == kind) {
			kinds = append(kinds, kind)
		}
	}
	switch len(kinds) {
	case 0:
		what := cmp.Or(t.Kind, "Service in namespace "+key.Namespace+", and no address, pool, peer or node,")
		return nil, fmt.Errorf("there is no %s %q", what, t.Name)
	case 1:
		return found[kinds[0]](), nil
	default:
		return nil, fmt.Errorf("%q is a %s: write %s/%s", t.Name, strings.Join(kinds, " and a "), kinds[0], t.Name)
	}
}

// explainService says what a Service holds and why, and who announces it.
func (w *World) explainService(key lb.ServiceKey, o *corev1.Service) *Explanation {
	e := &Explanation{Subject: "Service " + key.String(), Well: true}
	s := w.services[key]
	if s == nil {
		class := "no loadBalancerClass"
		if o.Spec.LoadBalancerClass != nil {
			class = "loadBalancerClass " + *o.Spec.LoadBalancerClass
		}
		e.add("Not ours", fmt.Sprintf("It is of type %s with %s; this installation serves Services of type LoadBalancer with %s.",
			o.Spec.Type, class, cmp.Or(w.Settings.Class, "none")))
		return e
	}
	e.add("It asks for", w.request(s)...)
	e.add("Status",
		"Allocated: "+w.told(s.Allocated, "nothing is written yet: is the controller running?"),
		"Announced: "+w.told(s.Announced, "nothing is written yet"))
	pools := e.add("Pools")
	pools.Table = w.poolTable(s)
	var advice []string
	switch s.Allocated.Reason {
	case allocator.Allocated.String():
	case allocator.Kept.String():
		e.hint(adviceByAllocation[s.Allocated.Reason])
	default:
		advice = append(advice, adviceByAllocation[s.Allocated.Reason])
	}
	for _, a := range s.Assigned {
		advice = append(advice, w.announcing(e, a)...)
	}
	e.advise(advice...)
	return e
}

// request says what a Service asks for.
func (w *World) request(s *objects.Service) []string {
	var families []string
	for _, f := range s.Families {
		families = append(families, f.String())
	}
	out := []string{fmt.Sprintf("%s of %s (%v), externalTrafficPolicy %v", plural(len(families), "an address", "addresses"),
		cmp.Or(strings.Join(families, " and "), "no family yet"), s.FamilyPolicy, s.TrafficPolicy)}
	r := s.Request
	if len(r.Addresses) > 0 {
		var all []string
		for _, a := range r.Addresses {
			all = append(all, a.String())
		}
		out = append(out, "the address "+strings.Join(all, " and "))
	}
	if r.Pool != "" {
		out = append(out, "the pool "+r.Pool)
	}
	if r.SharingKey != "" {
		out = append(out, "sharing with the key "+r.SharingKey)
	}
	if r.MoveTo != "" {
		out = append(out, "node "+r.MoveTo+" to announce it")
	}
	return append(out, r.Problems...)
}

func (w *World) told(c objects.Condition, none string) string {
	if c == (objects.Condition{}) {
		return none
	}
	return fmt.Sprintf("%s, %s, for %s: %s", c.Status, c.Reason, w.ago(c.Since.Time), c.Message)
}

func (w *World) ago(t time.Time) string {
	if t.IsZero() {
		return "an unknown time"
	}
	return Span(w.Now.Sub(t))
}

// poolTable says of each pool whether the Service could have an address of it, as the
// allocator finds when a Service like it asks for the pool.
func (w *World) poolTable(s *objects.Service) [][]string {
	planner := allocator.New()
	planner.SetPools(w.Snapshot.Pools)
	planner.SetNodes(w.Snapshot.Nodes)
	planner.SetExternal(w.external)
	for _, is := range w.Snapshot.Services {
		planner.Put(is)
	}
	planner.Plan(w.Now)
	table := [][]string{{"POOL", "USED", "WHY"}}
	origins := origin.New(w.Snapshot.Pools, w.Snapshot.Nodes)
	pools := slices.Clone(w.Snapshot.Pools)
	slices.SortStableFunc(pools, func(a, b lb.Pool) int { return cmp.Compare(rank(a), rank(b)) })
	for i := range pools {
		p := &pools[i]
		var used []string
		for _, a := range s.Assigned {
			if from := origins.Of(&s.Service, a); from.Standing != origin.Foreign && from.Pool == p.Name {
				used = append(used, a.String())
			}
		}
		probe := s.Service
		probe.Key.Name += "\x00" // of no Service that exists
		probe.UID, probe.Assigned, probe.AssignedPools, probe.Withdrawn, probe.Placed = "probe", nil, nil, nil, nil
		probe.Created, probe.Terms = w.Now, ""
		probe.Request = lb.Request{Pool: p.Name}
		planner.Put(probe)
		var d allocator.Decision
		for _, r := range planner.Plan(w.Now).Services {
			if r.Service == probe.Key {
				d = r
			}
		}
		planner.Delete(probe.Key)
		why := "could give an address"
		switch {
		case len(used) > 0:
			why = "gave it"
		case d.Reason == allocator.NotPermitted:
			why = "serviceAllocation does not admit this Service"
		case !d.Allocated() || d.Reason == allocator.PartialDualStack:
			why = d.Sentence()
		case !p.AutoAssign:
			why = "gives an address only where the pool or the address is asked for"
		case p.Allocation != nil:
			why = fmt.Sprintf("could give an address: restricted, priority %d", p.Allocation.Priority)
		}
		table = append(table, []string{p.Name, cmp.Or(strings.Join(used, ", "), "-"), why})
	}
	return table
}

// rank orders pools as they are tried: those that select Services before the others.
func rank(p lb.Pool) int {
	switch {
	case p.Allocation != nil && p.Allocation.Priority > 0:
		return p.Allocation.Priority
	case p.Allocation != nil:
		return 1 << 30
	default:
		return 1 << 31
	}
}

// announcing says who announces an address and why the others do not. It returns what to
// do.
func (w *World) announcing(e *Explanation, a netip.Addr) (advice []string) {
	index := announce.NewIndex(w.Snapshot, w.options())
	if !index.Uses(a) {
		e.add(a.String(), "It is not ours, so it is not announced.")
		return nil
	}
	sites := index.Sites()
	i, known := slices.BinarySearchFunc(sites, a, func(s placement.Address, a netip.Addr) int { return s.Address.Compare(a) })
	layer2 := known && sites[i].Advertised
	routed, asked := index.Routing(a)
	if !layer2 && !asked {
		e.add(a.String(), "No L2Advertisement and no BGPAdvertisement selects its pool, the Services that use it and a node.")
		return []string{adviceByReason[eligibility.NoAdvertisement]}
	}
	if layer2 {
		advice = append(advice, w.explainLayer2(e, index, a)...)
	}
	if asked {
		advice = append(advice, w.explainBGP(e, a, routed)...)
	}
	return advice
}

func (w *World) explainLayer2(e *Explanation, index *announce.Index, a netip.Addr) (advice []string) {
	section := e.add(a.String() + " by layer 2")
	members := w.members(nil)
	owner, since, from, cause := w.owner(a)
	switch {
	case owner != "":
		section.Lines = append(section.Lines, fmt.Sprintf("Node %s answers for it%s.", owner, w.cameBy(since, from, cause)))
	case len(members) == 0:
		section.Lines = append(section.Lines, "No speaker reports, so who answers is not known.")
	default:
		section.Lines = append(section.Lines, "No node answers for it.")
	}
	if owner != "" {
		section.Lines = append(section.Lines, w.proven(e, a, owner))
	}
	if place := index.Placed(a); place != "" && place != owner {
		section.Lines = append(section.Lines, "It is recorded on node "+place+".")
	}
	section.Table = [][]string{{"NODE", "", "WHY"}}
	for _, r := range announce.Explain(index, members, a) {
		state, why := "no", r.Reason.Sentence()
		switch {
		case r.Node == owner:
			state, why = "yes", "answers"
		case r.Reason == eligibility.Owner:
			state, why = "-", "is to answer, and does not say that it does"
		case r.Reason == eligibility.Lost && owner == "":
			state, why = "-", "could answer; another node is to"
		case r.Reason == eligibility.Lost:
			state = "-"
		}
		for _, b := range w.reports {
			if mac, withheld := b.Withheld[a]; withheld && b.Node == r.Node {
				state, why = "no", fmt.Sprintf("withholds it: station %v uses it too", mac)
				advice = append(advice, adviceByReason[eligibility.AddressConflict])
			}
		}
		section.Table = append(section.Table, []string{r.Node, state, why})
		if owner == "" {
			advice = append(advice, adviceByReason[r.Reason])
		}
	}
	if next := w.successors(index, members, owner, a); len(next) > 0 && owner != "" {
		line := "If it dies, node " + next[0] + " takes over"
		if len(next) > 1 {
			line += ", and then node " + next[1]
		}
		section.Lines = append(section.Lines, line+".")
	} else if owner != "" {
		section.Lines = append(section.Lines, "If it dies, no other node can take over.")
		e.hint("Let another node announce " + a.String() + ": today only " + owner + " can.")
	}
	return advice
}

// proven says what the segment answers to the question for an address.
func (w *World) proven(e *Explanation, a netip.Addr, owner string) string {
	kind, fault := w.view.Proven(a, owner)
	who, since := w.asked(a, owner)
	switch kind {
	case proof.Unknown:
		return "Nobody has asked the segment for it yet, or no other node is on it: not verified."
	case proof.Verified:
		return fmt.Sprintf("%s asked the segment for it, and %s alone answers: verified.", who, owner)
	default:
		e.Well = false
		return fmt.Sprintf("%s asked the segment for it: %v for %s: %s.", who, kind, w.ago(since), fault)
	}
}

// asked names who asked the segment for an address of an owner, and since when what was
// heard is wrong.
func (w *World) asked(a netip.Addr, owner string) (who string, since time.Time) {
	var nodes []string
	for _, r := range w.reports {
		for _, p := range r.Proofs {
			if p.Address == a && p.Owner == owner && w.view.Believes(r.Node) {
				nodes = append(nodes, r.Node)
				if since.IsZero() || p.Since.Before(since) {
					since = p.Since
				}
			}
		}
	}
	return plural(len(nodes), "Node ", "Nodes ") + strings.Join(nodes, " and "), since
}

func (w *World) cameBy(since time.Time, from string, cause v1beta1.TransitionCause) string {
	if since.IsZero() {
		return ""
	}
	text := " for " + w.ago(since) + ": "
	switch cause {
	case v1beta1.TransitionOwnerLost:
		return text + "it took over from " + cmp.Or(from, "a node") + ", which was lost"
	case v1beta1.TransitionHandover:
		return text + cmp.Or(from, "another node") + " handed it over"
	default:
		return text + "no node had it before"
	}
}

// successors are the nodes that would take an address over one after the other.
func (w *World) successors(index *announce.Index, members []election.Member, owner string, a netip.Addr) (out []string) {
	for range 2 {
		members = slices.DeleteFunc(slices.Clone(members), func(m election.Member) bool { return m.Node == owner })
		intent := announce.Decide(index, members, nil, "")
		d, used := intent.Decision(a)
		if !used || d.Owner == "" {
			return out
		}
		owner = d.Owner
		out = append(out, owner)
	}
	return out
}

func (w *World) explainBGP(e *Explanation, a netip.Addr, routed announce.Refusal) (advice []string) {
	section := e.add(a.String() + " by BGP")
	section.Table = [][]string{{"NODE", "PEERS", "WHY"}}
	sent := 0
	for _, n := range w.Snapshot.Nodes {
		options := bgp.Options{Options: w.options()}
		if n.Drain {
			options.Phase = bgp.Left
		}
		intent := bgp.Decide(w.Snapshot, n.Name, options)
		i := slices.IndexFunc(intent.Decisions, func(v bgp.Decision) bool { return v.Address == a })
		if i < 0 {
			continue
		}
		v := intent.Decisions[i]
		why := v.Reason.Sentence()
		if v.Reason == eligibility.Eligible {
			why = "advertised"
			up, down := w.sessionsOf(n.Name, v.Peers)
			switch {
			case len(up) == 0 && w.reporting():
				why = "no session: " + strings.Join(down, "; ")
				advice = append(advice, adviceByReason[eligibility.NoSession])
			case len(down) > 0:
				sent++
				why = "advertised; no session: " + strings.Join(down, "; ")
			default:
				sent++
			}
		}
		section.Table = append(section.Table, []string{n.Name, cmp.Or(strings.Join(v.Peers, ", "), "-"), why})
	}
	section.Lines = append(section.Lines, fmt.Sprintf("%d of %d nodes advertise it.", sent, len(w.Snapshot.Nodes)))
	if sent == 0 {
		return append(advice, adviceByReason[routed.Reason])
	}
	for _, line := range advice {
		e.hint(line)
	}
	return nil
}

// sessionsOf sorts the sessions of a node with some peers into those that are
// established and those that are not, with why.
func (w *World) sessionsOf(node string, peers []string) (up, down []string) {
	var sessions []report.Session
	for _, r := range w.reports {
		if r.Node == node && w.view.Believes(node) {
			sessions = r.Sessions
		}
	}
	for _, p := range peers {
		i := slices.IndexFunc(sessions, func(s report.Session) bool { return s.Peer == p })
		switch {
		case i < 0:
			down = append(down, p+" (its speaker does not report one)")
		case sessions[i].Established:
			up = append(up, p)
		default:
			down = append(down, p+" ("+cmp.Or(sessions[i].Error, "not connected yet")+")")
		}
	}
	return up, down
}

// explainAddress says whose an address is, and goes on with that.
func (w *World) explainAddress(a netip.Addr) *Explanation {
	e := &Explanation{Subject: "Address " + a.String(), Well: true}
	origins := origin.New(w.Snapshot.Pools, w.Snapshot.Nodes)
	var holders []string
	names := []string{"address/" + a.String()}
	for i := range w.Snapshot.Services {
		s := &w.Snapshot.Services[i]
		if !slices.Contains(s.Assigned, a) {
			continue
		}
		is := origins.Of(s, a)
		line := "Service " + s.Key.String() + " holds it"
		switch is.Standing {
		case origin.Foreign:
			line += ", and it is not ours: Belfry did not give it"
		case origin.Orphan:
			line += ", from pool " + cmp.Or(is.Pool, "that is gone") + ", which no longer covers it"
		default:
			line += ", from pool " + is.Pool
		}
		holders = append(holders, line+".")
		names = append(names, "service/"+s.Key.String())
	}
	if node := origins.Node(a); node != "" {
		e.add("Node's own", "Node "+node+" has it. It is never handed out and never announced.")
		e.Well = len(holders) == 0
	}
	if len(holders) == 0 {
		owner := origins.Owner(a)
		if owner == nil {
			e.add("Holders", "No Service holds it, and no pool covers it.")
			return e
		}
		lines := []string{"No Service holds it. Pool " + owner.Name + " hands it out."}
		if i := slices.IndexFunc(owner.Freed, func(f lb.FreedAddress) bool { return f.Address == a }); i >= 0 {
			f := owner.Freed[i]
			line := "It was freed " + w.ago(f.At) + " ago"
			if f.Service != (lb.ServiceKey{}) {
				line += " by Service " + f.Service.String()
				if until := f.At.Add(owner.Retention); owner.Retention > 0 && w.Now.Before(until) {
					line += ", for which it is reserved for " + Span(until.Sub(w.Now)) + " more"
				}
			}
			lines = append(lines, line+".")
		}
		e.add("Holders", lines...)
		return e
	}
	e.add("Holders", holders...)
	e.advise(w.announcing(e, a)...)
	return w.judged(e, names...)
}

// listed is how many Services or addresses a list has.
const listed = 20

func (w *World) explainPool(o *v1beta1.IPAddressPool) *Explanation {
	e := &Explanation{Subject: "Pool " + o.Name, Well: true}
	origins := origin.New(w.Snapshot.Pools, w.Snapshot.Nodes)
	var advice []string
	if p := origins.Pool(o.Name); p != nil {
		var ranges []string
		for _, r := range p.Ranges {
			ranges = append(ranges, r.String())
		}
		lines := []string{"It hands out " + cmp.Or(strings.Join(ranges, ", "), "nothing") + "."}
		if !p.AutoAssign {
			lines = append(lines, "Only Services that ask for the pool or one of its addresses get any (autoAssign is false).")
		}
		if p.Allocation != nil {
			lines = append(lines, "serviceAllocation restricts it to some Services.")
		}
		if p.Drain || p.Deleting {
			lines = append(lines, "It hands out nothing new.")
		}
		for _, r := range p.Lost {
			lines = append(lines, r.String()+" belongs to an older pool.")
		}
		e.add("Addresses", lines...)
	}
	for _, v := range w.Findings {
		if v.Kind == "IPAddressPool" && v.Name == o.Name && len(v.Problems)+len(w.Clashes[o.Name]) > 0 {
			var lines []string
			for _, p := range slices.Concat(v.Problems, w.Clashes[o.Name]) {
				lines = append(lines, p.String())
			}
			e.add("What is wrong with it", lines...)
			e.Well = false
		}
	}
	counts := e.add("Counts")
	counts.Table = [][]string{{"FAMILY", "TOTAL", "ASSIGNED", "AVAILABLE", "RESERVED", "ORPHANED"}}
	for _, f := range []struct {
		name string
		of   *v1beta1.AddressCount
	}{{"IPv4", o.Status.IPv4}, {"IPv6", o.Status.IPv6}} {
		if c := f.of; c != nil {
			counts.Table = append(counts.Table, []string{f.name, fmt.Sprint(c.Total), fmt.Sprint(c.Assigned), fmt.Sprint(c.Available), fmt.Sprint(c.Reserved), fmt.Sprint(c.Orphaned)})
		}
	}
	var by []string
	for _, ad := range w.Snapshot.L2Advertisements {
		if ad.SelectsPool(o.Name, o.Labels) {
			by = append(by, "L2Advertisement "+ad.Name)
		}
	}
	for _, ad := range w.Snapshot.BGPAdvertisements {
		if ad.SelectsPool(o.Name, o.Labels) {
			by = append(by, "BGPAdvertisement "+ad.Name)
		}
	}
	if len(by) == 0 {
		e.add("Advertised by", "No advertisement selects it: no node announces its addresses.")
		advice = append(advice, adviceByReason[eligibility.NoAdvertisement])
	} else {
		e.add("Advertised by", by...)
	}
	holders := e.add("Services")
	holders.Table = [][]string{{"ADDRESS", "SERVICE", ""}}
	more := 0
	for i := range w.Snapshot.Services {
		s := &w.Snapshot.Services[i]
		for _, a := range s.Assigned {
			is := origins.Of(s, a)
			switch {
			case is.Pool != o.Name || is.Standing == origin.Foreign:
			case len(holders.Table) > listed:
				more++
			default:
				note := ""
				if is.Standing == origin.Orphan {
					note = "no longer covered"
				}
				holders.Table = append(holders.Table, []string{a.String(), s.Key.String(), note})
			}
		}
	}
	if more > 0 {
		holders.Lines = append(holders.Lines, fmt.Sprintf("The first %d; %d more.", listed, more))
	}
	e.advise(advice...)
	return e
}

func (w *World) explainPeer(o *v1beta1.BGPPeer) *Explanation {
	e := &Explanation{Subject: "Peer " + o.Name, Well: true}
	e.add("Router", fmt.Sprintf("%s, AS %s; our AS is %d.", cmp.Or(string(o.Spec.PeerAddress), "on interface "+string(o.Spec.Interface)),
		cmp.Or(string(o.Spec.DynamicASN), fmt.Sprint(o.Spec.PeerASN)), o.Spec.MyASN))
	for _, v := range w.Findings {
		if v.Kind == "BGPPeer" && v.Name == o.Name && len(v.Problems) > 0 {
			var lines []string
			for _, p := range v.Problems {
				lines = append(lines, p.String())
			}
			e.add("What is wrong with it", lines...)
			e.Well = false
		}
	}
	section := e.add("Sessions")
	section.Table = [][]string{{"NODE", "STATE", "FOR", "PREFIXES", "BFD", "WHY"}}
	var advice []string
	for _, n := range w.Nodes() {
		s := w.speakers[n]
		if s == nil {
			continue
		}
		for _, b := range s.Status.BGP.Sessions {
			if b.Peer != o.Name {
				continue
			}
			since := "-"
			if b.Since != nil {
				since = w.ago(b.Since.Time)
			}
			why := ""
			if b.State != v1beta1.SessionEstablished {
				why = b.LastError
				advice = append(advice, adviceByCause[b.Cause])
				e.Well = e.Well && b.State == v1beta1.SessionShutdown
			}
			for _, not := range b.NotSent {
				why = strings.TrimPrefix(why+"; "+fmt.Sprintf("%d %s prefixes wait: %s", not.Prefixes, not.Family, not.Message), "; ")
				e.Well = false
			}
			section.Table = append(section.Table, []string{n, string(b.State), since, fmt.Sprint(b.PrefixesSent), cmp.Or(string(b.BFD), "-"), why})
		}
	}
	var by []string
	for _, ad := range w.Snapshot.BGPAdvertisements {
		if len(ad.Peers) == 0 || slices.Contains(ad.Peers, o.Name) {
			by = append(by, "BGPAdvertisement "+ad.Name)
		}
	}
	if len(by) == 0 {
		by = []string{"No BGPAdvertisement is for it: it is told nothing."}
	}
	e.add("Told by", by...)
	e.advise(advice...)
	return e
}

func (w *World) explainNode(n lb.Node) *Explanation {
	e := &Explanation{Subject: "Node " + n.Name, Well: true}
	lines := []string{}
	if marks := w.marks(n); len(marks) > 0 {
		lines = append(lines, "The Node is "+strings.Join(marks, ", ")+".")
	}
	o := w.speakers[n.Name]
	if o == nil {
		e.add("Speaker", append(lines, "Its speaker has never reported: there is no SpeakerStatus of this name.")...)
		e.advise(fmt.Sprintf("See that a speaker runs on it: kubectl -n %s get pods -l app.kubernetes.io/component=speaker -o wide", w.Settings.Namespace))
		return e
	}
	var advice []string
	is := "is"
	if !w.view.Believes(n.Name) {
		is = "said last that it is"
	}
	lines = append(lines, fmt.Sprintf("Its speaker %s %s, of version %s, and hears %d speakers.", is,
		strings.ToLower(string(cmp.Or(o.Status.Phase, v1beta1.SpeakerRunning))), cmp.Or(o.Status.Version, "unknown"), o.Status.Membership.Alive))
	if !w.view.Believes(n.Name) {
		lines = append(lines, "The others do not hear it: what it reports is old.")
		advice = append(advice, fmt.Sprintf("See what became of its speaker: kubectl -n %s get pods -l app.kubernetes.io/component=speaker -o wide --field-selector spec.nodeName=%s", w.Settings.Namespace, n.Name))
	}
	if len(o.Status.Membership.Unheard) > 0 {
		lines = append(lines, "It does not hear "+strings.Join(o.Status.Membership.Unheard, ", ")+".")
		e.hint("Open port 7870, UDP and TCP, between it and those nodes, unless they have no speaker.")
	}
	_, gaps := w.Gossip()
	for _, g := range gaps {
		if slices.Contains(g.Nodes[:], n.Name) {
			lines = append(lines, "G"+strings.TrimPrefix(g.String(), "g")+".")
			e.hint("Open port 7870, UDP and TCP, between all nodes, in both directions.")
		}
	}
	e.add("Speaker", lines...)
	ports := e.add("Interfaces")
	ports.Table = [][]string{{"NAME", "USABLE", "SUBNETS", "WHY NOT"}}
	for _, i := range o.Status.Interfaces {
		usable := "no"
		if i.Usable {
			usable = "yes"
		}
		ports.Table = append(ports.Table, []string{i.Name, usable, cmp.Or(strings.Join(i.Subnets, ", "), "-"), i.Reason})
	}
	answers := e.add("Layer 2", fmt.Sprintf("It answers for %d %s.", o.Status.Layer2.Total, plural(int(o.Status.Layer2.Total), "address", "addresses")))
	for _, a := range o.Status.Layer2.Answers {
		answers.Lines = append(answers.Lines, cmp.Or(strings.Join(a.Interfaces, ", "), "-")+": "+strings.Join(a.Addresses, "; "))
	}
	if len(o.Status.Layer2.Transitions) > 0 {
		how := e.add("How it came by them")
		how.Table = [][]string{{"AGO", "WHY", "FROM", "ADDRESSES"}}
		for _, t := range slices.Backward(o.Status.Layer2.Transitions) {
			if len(how.Table) > 5 {
				break
			}
			how.Table = append(how.Table, []string{w.ago(t.Since.Time), string(t.Cause), cmp.Or(t.From, "-"), strings.Join(t.Addresses, "; ")})
		}
	}
	for _, a := range o.Status.NotApplied {
		e.add("Cannot apply "+a.Kind+" "+a.Name, fmt.Sprintf("%s: %s", a.Reason, a.Message))
		e.Well = false
	}
	if w.view.Believes(n.Name) {
		p := Compare(w.Settle(), w.Settle(n.Name))
		e.add("If it is lost", fmt.Sprintf("%d %s, %d %s cut, %d %s withdrawn: kubectl belfry plan lose %s",
			p.Totals[Moves], plural(p.Totals[Moves], "address moves", "addresses move"), p.Totals[Cut], plural(p.Totals[Cut], "is", "are"),
			p.RoutesWithdrawn, plural(p.RoutesWithdrawn, "route is", "routes are"), n.Name))
	}
	e.advise(advice...)
	return e
}

// adviceByReason says what to do about what keeps nodes from announcing.
var adviceByReason = map[eligibility.Reason]string{
	eligibility.NodeAddress:        "Take the Node's address out of the pool (excludeAddresses), and give the Service another: belfry.dev/reallocate.",
	eligibility.NoAdvertisement:    "Create an L2Advertisement or a BGPAdvertisement that selects the pool, or name the pool in one.",
	eligibility.NoEndpoint:         "Have a Pod of the Service ready: kubectl get endpointslices -l kubernetes.io/service-name=NAME shows what there is.",
	eligibility.NoLocalEndpoint:    "Run a Pod of the Service on a node that may announce it, or set externalTrafficPolicy to Cluster.",
	eligibility.NodeNotSelected:    "Extend the nodeSelectors of the advertisement to nodes that have a speaker.",
	eligibility.NoPeer:             "Create a BGPPeer that selects the nodes, or name an existing one in the BGPAdvertisement.",
	eligibility.FamilyNotOffered:   "Add the address's family to addressFamilies of the BGPPeer.",
	eligibility.NodeExcluded:       "Remove the label " + lb.LabelExcludeLB + " from a node that is to announce.",
	eligibility.NetworkUnavailable: "See why the Node's condition NetworkUnavailable is True: its network plugin sets it.",
	eligibility.Draining:           "End the drain of a node: kubectl belfry undrain NODE.",
	eligibility.NotAMember:         "See that a speaker runs on the nodes: kubectl belfry explain node/NAME.",
	eligibility.NoUsableInterface:  "See the interfaces of a node, and why they are not usable: kubectl belfry explain node/NAME.",
	eligibility.AddressConflict:    "Find the foreign station by its hardware address and take the address from it, or take the address out of the pool.",
	eligibility.NoSession:          "See why there is no session: kubectl belfry explain peer/NAME.",
}

// adviceByAllocation says what to do about what keeps a Service from an address.
var adviceByAllocation = map[string]string{
	allocator.Kept.String():                "Nothing must be done. To move to another address, give belfry.dev/reallocate a new value.",
	allocator.Orphaned.String():            "It works as it is. To end this, put the address back into its pool, or move the Service: give belfry.dev/reallocate a new value.",
	"Contested":                            "Stop the other writer of the Service's status, or give the Service a loadBalancerClass of its own.",
	allocator.PartialDualStack.String():    "Add addresses of the other family to a pool that serves the Service.",
	allocator.Exhausted.String():           "Add addresses to a pool that serves the Service, or delete a Service that needs none.",
	allocator.LimitReached.String():        "Raise perNamespaceLimit of the pool, or free an address in this namespace.",
	allocator.Draining.String():            "Set drain of the pool to false, or let another pool serve the Service.",
	allocator.FamilyUnavailable.String():   "Add addresses of the family to a pool that serves the Service.",
	allocator.NoPool.String():              "Create an IPAddressPool, or ask for one that is only given on request: annotation belfry.dev/address-pool.",
	allocator.PoolNotFound.String():        "Correct the annotation belfry.dev/address-pool, or create the pool.",
	allocator.NotPermitted.String():        "Have serviceAllocation of the pool admit the Service, or ask for another pool.",
	allocator.AddressNotInPool.String():    "Ask for an address that a pool has, or add it to one.",
	allocator.AddressInUse.String():        "Ask for another address, or share it: the same belfry.dev/allow-shared-ip on both Services.",
	allocator.AddressReserved.String():     "Wait until retention of the pool has passed, or ask for another address.",
	allocator.NodeAddress.String():         "Ask for another address.",
	allocator.SharingConflict.String():     "Make the Services fit for sharing, or ask for another address.",
	allocator.BadRequest.String():          "Correct the annotations of the Service.",
	allocator.ForeignAddress.String():      "See who else writes the Service's status, and give it another loadBalancerClass or take it from them.",
	allocator.WaitingForClusterIP.String(): "See why the API server gave the Service no cluster IP.",
	allocator.Headless.String():            "Give the Service a cluster IP: clusterIP None and type LoadBalancer do not fit.",
}

// adviceByCause says what to do about what ends sessions.
var adviceByCause = map[string]string{
	bgp.ConnectionRefused.String(): "Start BGP on the router, and have it accept connections from the nodes.",
	bgp.Unanswered.String():        "See that TCP port 179 of the router can be reached from the nodes, and that it knows them as neighbors.",
	bgp.MD5Suspected.String():      "Compare the password of the BGPPeer with the router's.",
	bgp.Unreachable.String():       "See that the nodes have a route to the router.",
	bgp.SourceUnusable.String():    "Correct sourceAddress or vrf of the BGPPeer: the node has none such.",
	bgp.ClosedBeforeOpen.String():  "Configure the node as a neighbor on the router, with our AS.",
	bgp.TTLTooLow.String():         "Correct ttlSecurity or ebgpMultiHop of the BGPPeer: the router is farther away.",
	bgp.OpenRejected.String():      "Make AS numbers, router IDs and capabilities of both ends agree.",
	bgp.Notified.String():          "The router said why; correct that on either end.",
	bgp.PasswordMissing.String():   "Create the Secret that the BGPPeer names.",
	bgp.NoNeighbor.String():        "See that the router sends router advertisements on the interface of the BGPPeer.",
	bgp.BFDDown.String():           "See that BFD (UDP ports 3784 and 4784) passes between node and router, and that both want it.",
}
