package report

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/belfrylb/belfry/internal/announce"
	"github.com/belfrylb/belfry/internal/bgp"
	"github.com/belfrylb/belfry/internal/election"
	"github.com/belfrylb/belfry/internal/gossipkey"
	"github.com/belfrylb/belfry/internal/lb"
	"github.com/belfrylb/belfry/internal/proof"
)

// A Report is what one speaker says of its node. It does not change.
type Report struct {
	Node string
	// Order grows with every report that is written, by whomever: of two, the
	// greater was written later. The API server gives it.
	Order int
	// Seen is when it was received.
	Seen time.Time
	// State is what the speaker says of its life: Joining, Alive or Leaving, or Gone
	// once it has left.
	State election.State
	// Mute is set of an older speaker, which does not say what it answers for.
	Mute bool
	// Settings are flags that must be the controller's, too.
	Settings Settings
	// Configuration tells which configuration the speaker acts on.
	Configuration string
	// Unheard are nodes whose speakers are not heard, ascending.
	Unheard []string
	// Blocked are those to which gossip is blocked, since when any is.
	Blocked      []election.Blocked
	BlockedSince time.Time
	// Keys are the keys of gossip that it uses; none while it waits for one, and if it
	// is older and does not say.
	Keys gossipkey.Use
	// Interfaces are those that can announce.
	Interfaces []lb.Interface
	// Answers are the addresses that the node answers for, ascending.
	Answers []netip.Addr
	// Probing are those about which its segment is being asked, ascending, and
	// Withheld those that a foreign station uses, with its hardware address.
	Probing  []netip.Addr
	Withheld map[netip.Addr]lb.MAC
	// Conflicts are foreign stations that use addresses which are answered for.
	Conflicts []Conflict
	// Proofs are what the segment says when the node asks for addresses.
	Proofs []proof.Result
	// Transitions are how the node came by addresses, oldest first.
	Transitions []Transition
	// Sessions are the BGP sessions that the node should hold, by peer.
	Sessions []Session
}

// Settings are the flags that must agree between all programs.
type Settings struct {
	Class, DrainTaint string
	IgnoreExcludeLB   bool
	Namespace         string
}

// Differs says in which flags they differ from those of the controller.
func (s Settings) Differs(controller Settings) string {
	var out []string
	for _, f := range []struct{ flag, is, of string }{
		{"--lb-class", s.Class, controller.Class},
		{"--drain-taint", s.DrainTaint, controller.DrainTaint},
		{"--ignore-exclude-lb", strconv.FormatBool(s.IgnoreExcludeLB), strconv.FormatBool(controller.IgnoreExcludeLB)},
		{"--namespace", s.Namespace, controller.Namespace},
	} {
		if f.is != f.of {
			out = append(out, fmt.Sprintf("%s is %q, the controller's is %q", f.flag, f.is, f.of))
		}
	}
	return strings.Join(out, ", ")
}

// A Conflict is another station's use of an address that is answered for: a foreign one's,
// or that of a node, which is named, whose speaker does not claim it.
type Conflict struct {
	Address netip.Addr
	MAC     lb.MAC
	Node    string
	Heard   string
	At      time.Time
}

// A Transition is how a node came by addresses: all at once, from the same node.
type Transition struct {
	Since time.Time
	// From is the node that owned them before, empty for none.
	From string
	// Addresses, ascending, has as many as were told.
	Addresses []netip.Addr
}

// A Session is a BGP session that a node should hold.
type Session struct {
	Peer        string
	Established bool
	// Families are those whose routes it carries; Waits says of others why their
	// routes are not sent while it is established.
	Families []lb.Family
	Waits    map[lb.Family]string
	// Ours is set when it fell, or is down, because we want it to be, and Error
	// says in words why it did.
	Ours  bool
	Error string
	// Remote is the router's address.
	Remote string
}

func contains(sorted []netip.Addr, a netip.Addr) bool {
	_, is := slices.BinarySearchFunc(sorted, a, netip.Addr.Compare)
	return is
}

// origin returns the latest transition by which the node came by an address.
func (r *Report) origin(a netip.Addr) (Transition, bool) {
	for _, t := range slices.Backward(r.Transitions) {
		if contains(t.Addresses, a) {
			return t, true
		}
	}
	return Transition{}, false
}

// A View is what all reports say together.
type View struct {
	// Until is when the View may be another one though no report is; zero for
	// never.
	Until time.Time

	// blind is set while reports cannot be read.
	blind    bool
	believed map[string]*Report
	// reported are the nodes that say what they do, believed or not, and denying are
	// those that do not hear most of the others, since when.
	reported map[string]bool
	denying  map[string]time.Time
	// claims are the nodes that answer for each address, ascending.
	claims map[netip.Addr][]string
	// probing are the addresses of which it is not known yet if they can be
	// announced, and withheld who uses those that cannot.
	probing  map[netip.Addr]bool
	withheld map[netip.Addr]use
	// proofs are what segments say of addresses, of one owner each.
	proofs  map[netip.Addr][]finding
	members []election.Member // by node
	// gossiping are the reports of the speakers that run, by node.
	gossiping map[string]*Report
	// established are the sessions of each node that is here to stay.
	established map[string][]lb.SessionID
	// waits are, by node, the established sessions in which routes of a family are
	// not sent.
	waits    map[string][]wait
	sessions map[string]SessionCount
}

// A wait is a session that does not send routes of a family. Session is what it would
// be if it did.
type wait struct {
	session   lb.SessionID
	family    lb.Family
	peer, why string
}

// A use is a foreign station's use of an address that a node is to announce.
type use struct {
	mac  lb.MAC
	node string
}

// A SessionCount counts the BGP sessions with one peer, over all nodes.
type SessionCount struct {
	Up, Total int
	// Waits says in how many of those that are up routes of a family are not sent, and
	// why not on the first such node; empty for none.
	Waits string
}

// rebuttal is how long the nodes that a report says it does not hear have to show
// that they live, when they are most of the cluster: more likely it is the one that
// writes that is cut off. A speaker that hears of its loss writes within a second
// (docs/design/one-voice.md).
const rebuttal = 1200 * time.Millisecond

// MaxUnheard is how many nodes a report names at most as unheard.
const MaxUnheard = 256

// NewView joins reports, nil while they cannot be read. Before is the View that this one is to replace, nil for
// none. Fit says of a node whether there is one, and whether it is ready.
//
// A report is believed unless it is last words, or its speaker is cut off:
//
//   - One that another does not hear, though it claims to hear the other, is old:
//     a speaker that lives knows within a moment when it is not heard. The one that
//     was written later is right. This is how a killed speaker is told from one that
//     lives, whatever the Node's conditions say.
//   - Of those that are left, speakers that do not hear each other are in parts of
//     the cluster that gossip does not join. The greatest part is believed; among
//     equals, the parts with nodes that are ready, all of them.
//
// A report that does not hear most of the others counts for neither until the
// others have had time to contradict it.
func NewView(before *View, reports []Report, now time.Time, fit func(node string) (exists, ready bool)) *View {
	v := &View{
		believed: map[string]*Report{}, claims: map[netip.Addr][]string{}, sessions: map[string]SessionCount{},
		waits: map[string][]wait{}, gossiping: map[string]*Report{},
		probing: map[netip.Addr]bool{}, withheld: map[netip.Addr]use{}, proofs: map[netip.Addr][]finding{},
		blind: reports == nil, denying: map[string]time.Time{}, reported: map[string]bool{},
	}
	var denying map[string]time.Time
	if before != nil {
		denying = before.denying
	}
	v.believe(reports, denying, now, fit)
	for _, node := range slices.Sorted(maps.Keys(v.believed)) {
		r := v.believed[node]
		for _, a := range r.Answers {
			v.claims[a] = append(v.claims[a], node)
		}
		for _, a := range r.Probing {
			v.probing[a] = true
		}
		for a, mac := range r.Withheld {
			v.withheld[a] = use{mac, node}
		}
		v.hear(r)
		m := election.Member{Node: node, State: r.State, Interfaces: r.Interfaces}
		for _, s := range r.Sessions {
			if !s.Established {
				continue
			}
			for _, f := range s.Families {
				m.Sessions = append(m.Sessions, bgp.SessionID(s.Peer, f))
			}
			for f, why := range s.Waits {
				v.waits[node] = append(v.waits[node], wait{bgp.SessionID(s.Peer, f), f, s.Peer, why})
			}
		}
		slices.Sort(m.Sessions)
		v.members = append(v.members, m)
	}
	v.established = announce.Sessions(v.members)
	for i := range reports {
		r := &reports[i]
		if exists, _ := fit(r.Node); !exists {
			continue
		}
		is := v.believed[r.Node]
		for _, s := range r.Sessions {
			c := v.sessions[s.Peer]
			c.Total++
			if is != nil && s.Established {
				c.Up++
			}
			v.sessions[s.Peer] = c
		}
	}
	v.countWaits()
	return v
}

// countWaits says of each peer in how many sessions routes wait.
func (v *View) countWaits() {
	type key struct {
		peer   string
		family lb.Family
	}
	count, example := map[key]int{}, map[key]string{}
	for _, node := range slices.Sorted(maps.Keys(v.waits)) {
		for _, w := range v.waits[node] {
			k := key{w.peer, w.family}
			if count[k]++; count[k] == 1 {
				example[k] = fmt.Sprintf("on node %s %s", node, w.why)
			}
		}
	}
	for peer, c := range v.sessions {
		var all []string
		for _, f := range [...]lb.Family{lb.IPv4, lb.IPv6} {
			if n := count[key{peer, f}]; n > 0 {
				all = append(all, fmt.Sprintf("%v routes are not sent in %d of %d sessions: %s", f, n, c.Up, example[key{peer, f}]))
			}
		}
		c.Waits = strings.Join(all, "; ")
		v.sessions[peer] = c
	}
}

// waiting says why an address that no node advertises is not, where a session that it
// is for is established and does not send its family's routes: of the first such node.
func (v *View) waiting(ix *announce.Index, a netip.Addr) string {
	would := make(map[string][]lb.SessionID, len(v.waits))
	for node, waits := range v.waits {
		for _, w := range waits {
			would[node] = append(would[node], w.session)
		}
	}
	nodes := ix.Advertisers(a, would)
	if len(nodes) == 0 {
		return ""
	}
	node := nodes[0]
	var first wait
	for _, w := range v.waits[node] {
		would := map[string][]lb.SessionID{node: {w.session}}
		if (first.peer == "" || w.peer < first.peer) && len(ix.Advertisers(a, would)) > 0 {
			first = w
		}
	}
	return fmt.Sprintf("node %s, peer %s: %s", node, first.peer, first.why)
}

// believe finds out which reports are to be believed.
func (v *View) believe(reports []Report, denying map[string]time.Time, now time.Time, fit func(string) (exists, ready bool)) {
	byNode := make(map[string]*Report, len(reports))
	var order []*Report
	for i := range reports {
		r := &reports[i]
		v.reported[r.Node] = !r.Mute
		if exists, _ := fit(r.Node); exists && r.State != election.Gone {
			byNode[r.Node], v.gossiping[r.Node] = r, r
			order = append(order, r)
		}
	}
	slices.SortFunc(order, func(a, b *Report) int { return b.Order - a.Order })
	deaf := func(r *Report, to string) bool {
		_, is := slices.BinarySearch(r.Unheard, to)
		return is
	}
	for _, r := range order {
		v.believed[r.Node] = r
	}
	for _, r := range order {
		if v.believed[r.Node] == nil {
			continue
		}
		var lost []*Report
		denied := 0
		for _, node := range r.Unheard {
			other := byNode[node]
			if other == nil || node == r.Node {
				continue
			}
			denied++
			if other.Order < r.Order && !deaf(other, r.Node) {
				lost = append(lost, other)
			}
		}
		if len(lost) > 0 && 2*denied > len(byNode) {
			since, already := denying[r.Node]
			if !already {
				since = r.Seen
			}
			v.denying[r.Node] = since
			if until := since.Add(rebuttal); now.Before(until) {
				if v.Until.IsZero() || until.Before(v.Until) {
					v.Until = until
				}
				delete(v.believed, r.Node)
				continue
			}
		}
		for _, other := range lost {
			delete(v.believed, other.Node)
		}
	}
	v.part(deaf, fit)
}

// part leaves the greatest parts of those that are believed so far.
func (v *View) part(deaf func(*Report, string) bool, fit func(string) (exists, ready bool)) {
	apart := false
	for _, r := range v.believed {
		apart = apart || slices.ContainsFunc(r.Unheard, func(node string) bool { return node != r.Node && v.believed[node] != nil })
	}
	if !apart {
		return
	}
	nodes := slices.Sorted(maps.Keys(v.believed))
	of := make(map[string]int, len(nodes))
	var parts [][]string
	for _, first := range nodes {
		if _, known := of[first]; known {
			continue
		}
		n := len(parts)
		of[first] = n
		members := []string{first}
		for i := 0; i < len(members); i++ {
			a := members[i]
			for _, b := range nodes {
				if _, known := of[b]; !known && !deaf(v.believed[a], b) && !deaf(v.believed[b], a) {
					of[b] = n
					members = append(members, b)
				}
			}
		}
		parts = append(parts, members)
	}
	greatest, ready := 0, false
	isReady := func(part []string) bool {
		return slices.ContainsFunc(part, func(node string) bool { _, ready := fit(node); return ready })
	}
	for _, p := range parts {
		greatest = max(greatest, len(p))
	}
	for _, p := range parts {
		ready = ready || len(p) == greatest && isReady(p)
	}
	for _, p := range parts {
		if len(p) < greatest || ready && !isReady(p) {
			for _, node := range p {
				delete(v.believed, node)
			}
		}
	}
}

// Believes reports whether the report of a node is believed.
func (v *View) Believes(node string) bool { return v.believed[node] != nil }

// Reported reports whether the speaker of a node says what it does, or said so before
// it was lost.
func (v *View) Reported(node string) bool { return v.reported[node] }

// Unknown reports whether a node has a speaker that others hear, but of which it is
// not known what it does: it has written no report, or is an older one. Of no node it
// is known while reports cannot be read.
func (v *View) Unknown(node string) bool {
	if v.blind {
		return true
	}
	if v.reported[node] {
		return false
	}
	return v.believed[node] != nil || v.heard(node)
}

// heard reports whether another speaker hears that of the node.
func (v *View) heard(node string) bool {
	for _, m := range v.members {
		r := v.believed[m.Node]
		if r.Node == node || r.Mute || r.State == election.Joining || len(r.Unheard) >= MaxUnheard {
			continue
		}
		if _, deaf := slices.BinarySearch(r.Unheard, node); !deaf {
			return true
		}
	}
	return false
}

// Speakers says of the speakers of nodes which keys of gossip they use: of those that
// live, and of those that say themselves that they use none. The second result is false
// while reports cannot be read.
func (v *View) Speakers(nodes []lb.Node) ([]gossipkey.Speaker, bool) {
	out := []gossipkey.Speaker{}
	for _, n := range nodes {
		r := v.gossiping[n.Name]
		s := gossipkey.Speaker{Node: n.Name}
		switch silent := r == nil || r.State == election.Joining && r.Keys.Sends == ""; {
		case silent && v.heard(n.Name): // Its report is of an earlier life.
		case silent:
			s.Idle = true
		case v.believed[n.Name] != nil || v.heard(n.Name):
			s.Use = r.Keys
		default:
			continue
		}
		out = append(out, s)
	}
	return out, !v.blind
}

// Gossiping returns, by node, the reports of the speakers that run, by their own words,
// whether they are believed or not: one that gossip does not reach is the first not to be.
func (v *View) Gossiping() map[string]*Report { return v.gossiping }

// Sessions counts the sessions with a peer. Those in last words are down.
func (v *View) Sessions(peer string) SessionCount { return v.sessions[peer] }

// A SessionChange is a BGP session that was established or lost.
type SessionChange struct {
	Node string
	Session
}

// SessionChanges returns the sessions that were established or lost since another
// View, by node and peer. Those of nodes that were not believed then, or are not now,
// are left out, and so are those that ended because we wanted them to.
func (v *View) SessionChanges(before *View) []SessionChange {
	var out []SessionChange
	for _, m := range v.members {
		was := before.believed[m.Node]
		if was == nil || was == v.believed[m.Node] {
			continue
		}
		up := map[string]bool{}
		for _, s := range was.Sessions {
			up[s.Peer] = s.Established
		}
		for _, s := range v.believed[m.Node].Sessions {
			if up[s.Peer] != s.Established && (s.Established || !s.Ours) {
				out = append(out, SessionChange{m.Node, s})
			}
		}
	}
	return out
}

// Conflicts returns the foreign stations that use addresses which are answered for,
// by node.
func (v *View) Conflicts() []Conflict {
	var out []Conflict
	for _, m := range v.members {
		out = append(out, v.believed[m.Node].Conflicts...)
	}
	return out
}

// Strays returns the nodes whose speakers have other settings, ascending.
func (v *View) Strays(settings Settings) (out []*Report) {
	for _, m := range v.members {
		if r := v.believed[m.Node]; !r.Mute && r.Settings != settings {
			out = append(out, r)
		}
	}
	return out
}

// Changed returns the addresses of which another View said something else, and
// whether anything else that bears on announcing differs: who lives, interfaces,
// sessions, configuration. Nil stands for a View of nothing.
func (v *View) Changed(before *View) (addresses map[netip.Addr]bool, rest bool) {
	addresses = map[netip.Addr]bool{}
	if before == nil {
		before = &View{}
	}
	difference(v.claims, before.claims, slices.Equal, addresses)
	difference(v.probing, before.probing, func(a, b bool) bool { return a == b }, addresses)
	difference(v.withheld, before.withheld, func(a, b use) bool { return a == b }, addresses)
	difference(v.proofs, before.proofs, func(a, b []finding) bool { return slices.EqualFunc(a, b, finding.equal) }, addresses)
	for node, is := range v.believed {
		was := before.believed[node]
		if was == nil {
			was, rest = &Report{}, true
		}
		rest = rest || was.State != is.State || !slices.Equal(was.Unheard, is.Unheard) || was.Configuration != is.Configuration || !slices.EqualFunc(was.Interfaces, is.Interfaces, lb.Interface.Equal)
	}
	for node := range before.believed {
		rest = rest || v.believed[node] == nil
	}
	rest = rest || v.blind != before.blind || !maps.Equal(v.reported, before.reported) || !slices.EqualFunc(v.members, before.members, func(a, b election.Member) bool {
		return a.Node == b.Node && slices.Equal(a.Sessions, b.Sessions)
	})
	return addresses, rest
}

// difference adds the addresses of which two maps say something else.
func difference[V any](is, was map[netip.Addr]V, equal func(a, b V) bool, out map[netip.Addr]bool) {
	for a, now := range is {
		if before, known := was[a]; !known || !equal(now, before) {
			out[a] = true
		}
	}
	for a := range was {
		if _, still := is[a]; !still {
			out[a] = true
		}
	}
}

// owner returns the node that answers for an address. Where several say so, as
// while an address is handed over, it is the one that began last.
func (v *View) owner(a netip.Addr) string {
	best := ""
	var since time.Time
	for _, node := range v.claims[a] {
		t, _ := v.believed[node].origin(a)
		if best == "" || t.Since.After(since) {
			best, since = node, t.Since
		}
	}
	return best
}

// behind reports whether a speaker that is believed acts on another configuration.
func (v *View) behind(configuration string) bool {
	for _, m := range v.members {
		if v.believed[m.Node].Configuration != configuration {
			return true
		}
	}
	return false
}
