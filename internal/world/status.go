package world

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/belfrylb/belfry/api/v1beta1"
	"github.com/belfrylb/belfry/internal/allocator"
	"github.com/belfrylb/belfry/internal/bgp"
	"github.com/belfrylb/belfry/internal/eligibility"
	"github.com/belfrylb/belfry/internal/lb"
	"github.com/belfrylb/belfry/internal/objects"
)

// A Status is how things stand, as the objects have it.
type Status struct {
	At         time.Time        `json:"at"`
	Namespace  string           `json:"namespace"`
	Controller ControllerStatus `json:"controller"`
	Speakers   SpeakersStatus   `json:"speakers"`
	Pools      []PoolStatus     `json:"pools"`
	Services   ServicesStatus   `json:"services"`
	Nodes      []NodeStatus     `json:"nodes"`
	Peers      []PeerStatus     `json:"peers,omitempty"`
	Problems   []Problem        `json:"problems"`
}

// A ControllerStatus says who leads.
type ControllerStatus struct {
	Leader string `json:"leader,omitempty"`
	// Known is whether the Lease could be read, and Late is set when it is not renewed
	// any more.
	Known bool `json:"known"`
	Late  bool `json:"late,omitempty"`
}

// A SpeakersStatus counts speakers.
type SpeakersStatus struct {
	Nodes    int      `json:"nodes"`
	Alive    int      `json:"alive"`
	Versions []string `json:"versions,omitempty"`
}

// A PoolStatus has the counts of one family of a pool.
type PoolStatus struct {
	Pool      string `json:"pool"`
	Family    string `json:"family"`
	Assigned  int64  `json:"assigned"`
	Total     int64  `json:"total"`
	Available int64  `json:"available"`
	Orphaned  int64  `json:"orphaned,omitempty"`
	// Note says what is special of the pool, in words.
	Note string `json:"note,omitempty"`
}

// A ServicesStatus counts Services.
type ServicesStatus struct {
	Total     int `json:"total"`
	Allocated int `json:"allocated"`
	Announced int `json:"announced"`
	// Reasons counts those that are not well, by the reason of the condition.
	Reasons map[string]int `json:"reasons,omitempty"`
}

// A NodeStatus is what one node does.
type NodeStatus struct {
	Node string `json:"node"`
	// State is the speaker's: running, joining, leaving, stopped, silent or missing.
	State    string   `json:"state"`
	Notes    []string `json:"notes,omitempty"`
	Layer2   int      `json:"layer2"`
	Withheld int      `json:"withheld,omitempty"`
	Up       int      `json:"sessionsUp"`
	Sessions int      `json:"sessions"`
}

// A PeerStatus is one router.
type PeerStatus struct {
	Peer    string `json:"peer"`
	Address string `json:"address"`
	ASN     string `json:"asn"`
	Up      int    `json:"up"`
	Total   int    `json:"total"`
	// Prefixes is how many the router was told by the node that told most.
	Prefixes int    `json:"prefixes"`
	Note     string `json:"note,omitempty"`
}

// A Problem is something that a person should look into.
type Problem struct {
	Object  string `json:"object"`
	Message string `json:"message"`
	// Command explains it.
	Command string `json:"command,omitempty"`
	// Gossip is set when it is a Gap.
	Gossip bool `json:"-"`
}

// Well reports whether there is no problem.
func (s *Status) Well() bool { return len(s.Problems) == 0 }

// Status returns how things stand.
func (w *World) Status() *Status {
	s := &Status{
		At: w.Now, Namespace: w.Settings.Namespace,
		Services: ServicesStatus{Reasons: map[string]int{}}, Problems: []Problem{}, Pools: []PoolStatus{}, Nodes: []NodeStatus{},
	}
	w.controller(s)
	w.nodes(s)
	w.strays(s)
	w.gossip(s)
	w.pools(s)
	w.countServices(s)
	w.peers(s)
	w.findings(s)
	return s
}

func (s *Status) problem(object, message, command string) {
	s.Problems = append(s.Problems, Problem{Object: object, Message: message, Command: command})
}

func explain(kind, name string) string { return "kubectl belfry explain " + kind + name }

func (w *World) controller(s *Status) {
	l := w.objects.Leader
	if l == nil {
		return
	}
	s.Controller = ControllerStatus{Leader: l.Holder, Known: true, Late: l.Holder == "" || w.Now.Sub(l.Renewed) > l.For}
	if s.Controller.Late {
		message := "no replica leads: what is assigned stays and is announced, but nothing new is"
		if l.Holder != "" {
			message = fmt.Sprintf("%s has not renewed its Lease for %s: what is assigned stays and is announced, but nothing new is", l.Holder, Span(w.Now.Sub(l.Renewed)))
		}
		s.problem("controller", message, fmt.Sprintf("kubectl -n %s get pods -l app.kubernetes.io/component=controller", w.Settings.Namespace))
	}
}

// nodes reports what each node does, by its SpeakerStatus.
func (w *World) nodes(s *Status) {
	s.Speakers.Nodes = len(w.Snapshot.Nodes)
	for _, n := range w.Snapshot.Nodes {
		is := NodeStatus{Node: n.Name, State: "missing"}
		o := w.speakers[n.Name]
		command := explain("node/", n.Name)
		if o != nil {
			is.State = strings.ToLower(string(cmp.Or(o.Status.Phase, v1beta1.SpeakerRunning)))
			is.Layer2, is.Withheld = int(o.Status.Layer2.Total), len(o.Status.Layer2.Withheld)
			is.Up, is.Sessions = int(o.Status.BGP.Up), int(o.Status.BGP.Total)
			if !w.view.Believes(n.Name) && o.Status.Phase != v1beta1.SpeakerStopped {
				is.State = "silent"
			}
			if v := o.Status.Version; v != "" && !slices.Contains(s.Speakers.Versions, v) {
				s.Speakers.Versions = append(s.Speakers.Versions, v)
			}
		}
		switch is.State {
		case "running":
			s.Speakers.Alive++
		case "missing":
			s.problem("node/"+n.Name, "its speaker has never reported", command)
		case "silent":
			s.problem("node/"+n.Name, "the other speakers do not hear its speaker: it is stopped or cut off; what it reports is old", command)
			is.Layer2, is.Up = 0, 0
		case "joining":
			s.problem("node/"+n.Name, "its speaker has not learned yet who owns what", command)
		case "stopped":
			s.problem("node/"+n.Name, "its speaker has stopped", command)
		}
		is.Notes = w.marks(n)
		if o != nil && is.State != "silent" {
			w.speakerProblems(s, o)
		}
		s.Nodes = append(s.Nodes, is)
	}
	slices.Sort(s.Speakers.Versions)
	if len(s.Speakers.Versions) > 1 {
		s.problem("speakers", "they are of "+fmt.Sprint(len(s.Speakers.Versions))+" versions: "+strings.Join(s.Speakers.Versions, ", "), "kubectl get speakerstatuses.belfry.dev")
	}
}

// marks are what a Node says of itself that bears on announcing.
func (w *World) marks(n lb.Node) (out []string) {
	if n.Drain {
		out = append(out, "drained")
	}
	if _, excluded := n.Labels[lb.LabelExcludeLB]; excluded && !w.Settings.IgnoreExcludeLB {
		out = append(out, "excluded")
	}
	if n.NetworkUnavailable {
		out = append(out, "network unavailable")
	}
	if n.NotReady {
		out = append(out, "not ready")
	}
	return out
}

// speakerProblems reports what a speaker says that is wrong.
func (w *World) speakerProblems(s *Status, o *v1beta1.SpeakerStatus) {
	node, command := "node/"+o.Name, explain("node/", o.Name)
	for _, u := range o.Status.Layer2.Withheld {
		s.problem("address/"+u.Address, fmt.Sprintf("withheld on %s: station %s uses it too", o.Name, u.MAC), explain("", u.Address))
	}
	for _, u := range o.Status.Layer2.Conflicts {
		s.problem("address/"+u.Address, fmt.Sprintf("announced by %s although station %s uses it too", o.Name, u.MAC), explain("", u.Address))
	}
	for _, f := range o.Status.Layer2.Faults {
		what := "nobody answers on the segment"
		if f.Reason == v1beta1.FaultAnsweredTwice {
			what = "others answer on the segment, too"
		}
		s.problem("node/"+f.Node, fmt.Sprintf("%s (%s, %s asked): %s", what, f.Reason, o.Name, strings.Join(f.Addresses, "; ")), explain("node/", f.Node))
	}
	for _, n := range o.Status.NotApplied {
		s.problem(node, fmt.Sprintf("cannot apply %s %s (%s): %s", n.Kind, n.Name, n.Reason, n.Message), command)
	}
	if len(o.Status.Membership.Suspected) > 0 {
		s.problem(node, "suspects "+strings.Join(o.Status.Membership.Suspected, ", "), command)
	}
}

// strays are speakers with other flags than the rest.
func (w *World) strays(s *Status) {
	for _, r := range w.view.Strays(w.Settings) {
		s.problem("node/"+r.Node, "the flags of its speaker differ: "+strings.ReplaceAll(r.Settings.Differs(w.Settings), "the controller's", "elsewhere it"), "kubectl get speakerstatus.belfry.dev "+r.Node+" -o yaml")
	}
}

// gossip reports between which nodes gossip is blocked.
func (w *World) gossip(s *Status) {
	_, gaps := w.Gossip()
	for _, g := range gaps {
		s.problem("node/"+g.Nodes[0], g.String(), "kubectl get speakerstatus.belfry.dev "+g.Nodes[0]+" -o jsonpath={.status.membership}")
		s.Problems[len(s.Problems)-1].Gossip = true
	}
}

// pools reports the counts in the pools' status.
func (w *World) pools(s *Status) {
	for _, p := range slices.SortedFunc(slices.Values(w.objects.Pools), func(a, b *v1beta1.IPAddressPool) int { return cmp.Compare(a.Name, b.Name) }) {
		var notes []string
		if p.DeletionTimestamp != nil {
			notes = append(notes, "being deleted")
		}
		if p.Spec.Drain {
			notes = append(notes, "drains")
		}
		if p.Spec.AutoAssign != nil && !*p.Spec.AutoAssign {
			notes = append(notes, "on request")
		}
		if p.Spec.ServiceAllocation != nil {
			notes = append(notes, "restricted")
		}
		for _, of := range []struct {
			family string
			count  *v1beta1.AddressCount
		}{{"IPv4", p.Status.IPv4}, {"IPv6", p.Status.IPv6}} {
			f, c := of.family, of.count
			if c == nil {
				continue
			}
			s.Pools = append(s.Pools, PoolStatus{
				Pool: p.Name, Family: f, Assigned: c.Assigned, Total: c.Total, Available: c.Available, Orphaned: c.Orphaned, Note: strings.Join(notes, ", "),
			})
			if auto := p.Spec.AutoAssign == nil || *p.Spec.AutoAssign; auto && c.Available == 0 && c.Total > 0 && p.DeletionTimestamp == nil {
				s.problem("pool/"+p.Name, "no "+f+" address is free", explain("pool/", p.Name))
			}
			if c.Orphaned > 0 {
				s.problem("pool/"+p.Name, fmt.Sprintf("%d %s in use that it no longer covers", c.Orphaned, plural(int(c.Orphaned), f+" address", f+" addresses")), explain("pool/", p.Name))
			}
		}
	}
}

// countServices counts Services by what they are told.
func (w *World) countServices(s *Status) {
	for i := range w.Snapshot.Services {
		is := w.services[w.Snapshot.Services[i].Key]
		if is.Foreign || is.Released {
			continue
		}
		name := is.Key.String()
		s.Services.Total++
		if ok := is.Allocated.Status == metav1.ConditionTrue; ok {
			s.Services.Allocated++
		}
		if c := is.Allocated; c.Status != metav1.ConditionTrue || c.Reason != allocator.Allocated.String() && c.Reason != allocator.Kept.String() {
			s.Services.Reasons[cmp.Or(c.Reason, "Pending")]++
			s.problem("service/"+name, "Allocated: "+sayCondition(c, "the controller has not seen it yet"), explain("service/", name))
		}
		if is.Announced.Status == metav1.ConditionTrue {
			s.Services.Announced++
		} else if is.Allocated.Status == metav1.ConditionTrue {
			s.Services.Reasons[cmp.Or(is.Announced.Reason, "Pending")]++
			s.problem("service/"+name, "Announced: "+sayCondition(is.Announced, "nothing is known yet"), explain("service/", name))
		}
	}
}

func sayCondition(c objects.Condition, none string) string {
	if c == (objects.Condition{}) {
		return none
	}
	return fmt.Sprintf("%s (%s)", c.Message, c.Reason)
}

// peers reports the sessions with each router.
func (w *World) peers(s *Status) {
	for _, p := range slices.SortedFunc(slices.Values(w.objects.BGPPeers), func(a, b *v1beta1.BGPPeer) int { return cmp.Compare(a.Name, b.Name) }) {
		count := w.view.Sessions(p.Name)
		is := PeerStatus{
			Peer: p.Name, Address: cmp.Or(string(p.Spec.PeerAddress), string(p.Spec.Interface)), Up: count.Up, Total: count.Total,
			ASN: cmp.Or(string(p.Spec.DynamicASN), fmt.Sprint(p.Spec.PeerASN)),
		}
		for _, o := range w.speakers {
			for _, b := range o.Status.BGP.Sessions {
				if b.Peer == p.Name {
					is.Prefixes = max(is.Prefixes, int(b.PrefixesSent))
				}
			}
		}
		s.Peers = append(s.Peers, is)
		w.sessionProblems(s, p.Name)
	}
}

// sessionProblems reports what is wrong with the sessions with a router: what is so on
// several nodes, once.
func (w *World) sessionProblems(s *Status, peer string) {
	nodes := map[string][]string{}
	for _, n := range w.Nodes() {
		o := w.speakers[n]
		if o == nil || !w.view.Believes(n) {
			continue
		}
		for _, b := range o.Status.BGP.Sessions {
			if b.Peer != peer {
				continue
			}
			switch {
			case b.State == v1beta1.SessionConnect || b.State == v1beta1.SessionIdle:
				why := "no session: " + cmp.Or(b.LastError, "not connected yet")
				nodes[why] = append(nodes[why], n)
			case b.BFD == v1beta1.BFDDown:
				why := "BFD is down: " + cmp.Or(b.BFDError, "no packets yet")
				nodes[why] = append(nodes[why], n)
			}
			for _, not := range b.NotSent {
				why := fmt.Sprintf("%s routes are not sent: %s", not.Family, not.Message)
				nodes[why] = append(nodes[why], n)
			}
		}
	}
	for _, why := range slices.Sorted(maps.Keys(nodes)) {
		s.problem("peer/"+peer, some(nodes[why])+": "+why, explain("peer/", peer))
	}
}

// some names nodes as far as there are few.
func some(nodes []string) string {
	if len(nodes) > 3 {
		return fmt.Sprintf("%d nodes (%s, ...)", len(nodes), strings.Join(nodes[:3], ", "))
	}
	return strings.Join(nodes, ", ")
}

// findings reports what is wrong with the objects that configure us, as it is found now.
func (w *World) findings(s *Status) {
	for _, v := range w.Findings {
		problems := v.Problems
		if v.Kind == "IPAddressPool" {
			problems = slices.Concat(problems, w.Clashes[v.Name])
		}
		for _, p := range problems {
			s.problem(strings.ToLower(v.Kind)+"/"+v.Name, p.String(), "kubectl get "+strings.ToLower(v.Kind)+"s.belfry.dev "+v.Name+" -o yaml")
		}
	}
	if len(w.Snapshot.BGPPeers) == 0 {
		return
	}
	survey := bgp.NewSurvey(w.Snapshot, eligibility.Addresses(w.Snapshot), bgp.Options{Options: w.options()})
	conflicts, rivals := survey.Contradictions()
	for _, c := range conflicts {
		s.problem("bgpadvertisement/"+c.Advertisement, c.String(), "kubectl get bgpadvertisements.belfry.dev")
	}
	for _, r := range rivals {
		s.problem("peer/"+r.Peer, "the older BGPPeer "+r.Older+" is for the same router and is used instead", explain("peer/", r.Peer))
	}
}

func plural(n int, one, many string) string {
	if n == 1 {
		return one
	}
	return many
}

// Span writes a duration as people do: its two greatest units.
func Span(d time.Duration) string {
	day := 24 * time.Hour
	switch {
	case d < time.Second:
		return "0s"
	case d < time.Minute:
		return fmt.Sprintf("%ds", d/time.Second)
	case d < time.Hour:
		return fmt.Sprintf("%dm", d/time.Minute)
	case d < day:
		return fmt.Sprintf("%dh%dm", d/time.Hour, d%time.Hour/time.Minute)
	default:
		return fmt.Sprintf("%dd%dh", d/day, d%day/time.Hour)
	}
}
