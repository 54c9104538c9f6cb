package world

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"

	"github.com/belfrylb/belfry/api/v1beta1"
	"github.com/belfrylb/belfry/internal/config"
	"github.com/belfrylb/belfry/internal/eligibility"
	"github.com/belfrylb/belfry/internal/lb"
	"github.com/belfrylb/belfry/internal/objects"
	"github.com/belfrylb/belfry/internal/report"
	"github.com/belfrylb/belfry/internal/speakerstatus"
)

// Objects are those of a cluster that bear on decisions, in any order.
type Objects struct {
	Services   []*corev1.Service
	Slices     []*discoveryv1.EndpointSlice
	Nodes      []*corev1.Node
	Namespaces []*corev1.Namespace
	// Networks are those of cluster IPs.
	Networks          []lb.ServiceNetwork
	Pools             []*v1beta1.IPAddressPool
	L2Advertisements  []*v1beta1.L2Advertisement
	BGPPeers          []*v1beta1.BGPPeer
	BGPAdvertisements []*v1beta1.BGPAdvertisement
	Communities       []*v1beta1.Community
	BFDProfiles       []*v1beta1.BFDProfile
	Speakers          []*v1beta1.SpeakerStatus
	// Leader is who holds the controller's Lease; nil where that is not known.
	Leader *Leader
}

// A Leader is the holder of the controller's Lease.
type Leader struct {
	Holder  string
	Renewed time.Time
	// For is how long the Lease lasts after it was renewed.
	For time.Duration
}

// Settings are the flags of the installation. They are read from what its speakers
// report, as far as they are empty here.
type Settings = report.Settings

// A World is a cluster at one moment. It does not change.
type World struct {
	// Snapshot has the Services that are ours, or hold something of ours, as they are.
	Snapshot lb.Snapshot
	Settings Settings
	Now      time.Time
	Findings []config.Finding
	// Clashes are what pools have of the cluster's own addresses, by pool.
	Clashes map[string][]config.Problem

	objects  Objects
	services map[lb.ServiceKey]*objects.Service
	external []lb.ExternalIP
	reports  []report.Report
	view     *report.View
	speakers map[string]*v1beta1.SpeakerStatus
}

// New joins the objects of a cluster as they are at a time.
func New(o Objects, s Settings, now time.Time) *World {
	w := &World{
		Settings: settingsOf(o.Speakers, s), Now: now, objects: o,
		services: map[lb.ServiceKey]*objects.Service{}, speakers: map[string]*v1beta1.SpeakerStatus{},
	}
	scope := objects.Scope{
		Role: objects.Allocating, Class: objects.Class(w.Settings.Class), DrainTaint: w.Settings.DrainTaint, Namespace: w.Settings.Namespace,
	}
	compiled := objects.Configure(&w.Snapshot, config.Objects{
		Pools: o.Pools, L2Advertisements: o.L2Advertisements,
		BGP: config.BGPObjects{
			Peers: o.BGPPeers, Advertisements: o.BGPAdvertisements, Communities: o.Communities, BFDProfiles: o.BFDProfiles,
			Passwords: passwords(o),
		},
	})
	w.Findings = compiled.Findings
	for _, n := range o.Nodes {
		w.Snapshot.Nodes = append(w.Snapshot.Nodes, scope.Node(n))
	}
	slices.SortFunc(w.Snapshot.Nodes, func(a, b lb.Node) int { return cmp.Compare(a.Name, b.Name) })
	w.Clashes = config.Clashes(w.Snapshot.Pools, w.Snapshot.Nodes, o.Networks)
	w.readServices(scope)
	w.reports = objects.Reports(o.Speakers)
	exists := map[string]bool{}
	for _, n := range w.Snapshot.Nodes {
		exists[n.Name] = !n.NotReady
	}
	w.view = report.NewView(nil, w.reports, now, func(node string) (is, ready bool) { ready, is = exists[node]; return is, ready })
	for _, s := range o.Speakers {
		w.speakers[s.Name] = s
	}
	return w
}

// readServices takes the Services with what other objects say of them.
func (w *World) readServices(scope objects.Scope) {
	labels := map[string]map[string]string{}
	for _, n := range w.objects.Namespaces {
		labels[n.Name] = n.Labels
	}
	endpoints := map[lb.ServiceKey][]*objects.Slice{}
	for _, s := range w.objects.Slices {
		read := objects.ReadSlice(s)
		endpoints[read.Service] = append(endpoints[read.Service], &read)
	}
	for _, s := range w.objects.Services {
		key := lb.ServiceKey{Namespace: s.Namespace, Name: s.Name}
		for _, a := range objects.ExternalIPs(s) {
			w.external = append(w.external, lb.ExternalIP{Address: a, Service: key})
		}
		if s.Spec.Type != corev1.ServiceTypeLoadBalancer {
			continue // what it carries of ours is taken off it, whatever is decided about others
		}
		is := scope.Service(s)
		if is == nil {
			continue
		}
		is.Endpoints, is.NamespaceLabels = objects.SumSlices(endpoints[key]), labels[s.Namespace]
		w.services[key] = is
	}
	for _, key := range slices.SortedFunc(maps.Keys(w.services), lb.ServiceKey.Compare) {
		w.Snapshot.Services = append(w.Snapshot.Services, w.services[key].Service)
	}
}

// options are the switches that controller and speakers share.
func (w *World) options() eligibility.Options {
	return eligibility.Options{IgnoreExcludeLB: w.Settings.IgnoreExcludeLB}
}

// settingsOf returns what most speakers report where nothing else is said.
func settingsOf(speakers []*v1beta1.SpeakerStatus, s Settings) Settings {
	count := map[report.Settings]int{}
	var most report.Settings
	for _, o := range speakers {
		r := speakerstatus.Read(o)
		count[r.Settings]++
		if n := count[r.Settings]; n > count[most] || n == count[most] && r.Settings.Namespace < most.Namespace {
			most = r.Settings
		}
	}
	s.Class, s.DrainTaint = cmp.Or(s.Class, most.Class), cmp.Or(s.DrainTaint, most.DrainTaint)
	s.Namespace = cmp.Or(s.Namespace, most.Namespace, objects.DefaultNamespace)
	s.IgnoreExcludeLB = s.IgnoreExcludeLB || most.IgnoreExcludeLB
	return s
}

// passwords takes every Secret that is named for one that is there: none is read here.
func passwords(o Objects) map[string]config.PasswordSecret {
	all := map[string]config.PasswordSecret{}
	there := config.PasswordSecret{Type: string(corev1.SecretTypeBasicAuth), Password: lb.NewSecret("assumed"), Present: true}
	for _, p := range o.BGPPeers {
		if p.Spec.PasswordSecret != nil {
			all[string(p.Spec.PasswordSecret.Name)] = there
		}
	}
	for _, p := range o.BFDProfiles {
		if p.Spec.Authentication == nil {
			continue
		}
		for _, k := range p.Spec.Authentication.Keys {
			all[string(k.PasswordSecret.Name)] = there
		}
	}
	return all
}

// Nodes returns the names of all nodes, ascending.
func (w *World) Nodes() []string {
	out := make([]string, len(w.Snapshot.Nodes))
	for i, n := range w.Snapshot.Nodes {
		out[i] = n.Name
	}
	return out
}

// reporting reports whether any speaker says what it does.
func (w *World) reporting() bool {
	return slices.ContainsFunc(w.reports, func(r report.Report) bool { return w.view.Believes(r.Node) && !r.Mute })
}

// owner returns the node that says that it answers for an address, and how it came by
// it; empty for none.
func (w *World) owner(a netip.Addr) (node string, since time.Time, from string, cause v1beta1.TransitionCause) {
	for _, r := range w.reports {
		if _, answers := slices.BinarySearchFunc(r.Answers, a, netip.Addr.Compare); !answers || !w.view.Believes(r.Node) {
			continue
		}
		var began time.Time
		var came string
		var why v1beta1.TransitionCause
		for i, t := range slices.Backward(r.Transitions) {
			if slices.Contains(t.Addresses, a) {
				began, came, why = t.Since, t.From, w.speakers[r.Node].Status.Layer2.Transitions[i].Cause
				break
			}
		}
		if node == "" || began.After(since) {
			node, since, from, cause = r.Node, began, came, why
		}
	}
	return node, since, from, cause
}
