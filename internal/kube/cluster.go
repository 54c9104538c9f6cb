package kube

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/belfrylb/belfry/api/v1beta1"
	"github.com/belfrylb/belfry/internal/config"
	"github.com/belfrylb/belfry/internal/lb"
	"github.com/belfrylb/belfry/internal/objects"
	"github.com/belfrylb/belfry/internal/report"
)

// A Cluster is what the API server holds that concerns us, in our own nouns and
// always nearly up to date. [Cluster.Run] keeps it so.
//
// It says that something has changed; its reader then gets the whole, or
// which parts. Values handed out are shared and must not be changed.
type Cluster struct {
	core   *CoreClient
	own    *OwnClient
	scope  objects.Scope
	log    *slog.Logger
	signal chan struct{}
	synced chan struct{}

	mu         sync.Mutex
	kinds      []*mirrored
	complete   bool // synced is closed
	services   *table[*objects.Service]
	slices     *table[objects.Slice]
	nodes      *table[lb.Node]
	namespaces *table[map[string]string]
	pools      *table[*v1beta1.IPAddressPool]
	l2ads      *table[*v1beta1.L2Advertisement]

	peers       *table[*v1beta1.BGPPeer]
	bgpads      *table[*v1beta1.BGPAdvertisement]
	communities *table[*v1beta1.Community]
	profiles    *table[*v1beta1.BFDProfile]
	secrets     *table[config.PasswordSecret]
	// reports are what the speakers say, and reporting is that kind ([objects.Allocating]
	// only).
	reports   *table[report.Report]
	reporting *mirrored
	// others are the externalIPs of Services of other types ([objects.Allocating] only).
	others *table[[]netip.Addr]
	// networks are those of cluster IPs ([objects.Allocating] only).
	networks *table[lb.ServiceNetwork]
	judged   map[string]judged
	// byService are the EndpointSlices of each Service, endpoints their sums.
	byService map[lb.ServiceKey]map[name]*objects.Slice
	endpoints map[lb.ServiceKey]lb.Endpoints
	changes   changes

	// snapshot is the last one made; stale are the Services in it that have
	// changed since, and config, nodes say the same of the rest.
	snapshot                lb.Snapshot
	stale                   map[lb.ServiceKey]struct{}
	staleConfig, staleNodes bool
	config                  config.Config
}

// changes are what has changed since they were read.
type changes struct {
	services, endpoints  map[lb.ServiceKey]struct{}
	left                 map[lb.ServiceKey]string
	config, pools, nodes bool
	reports, external    bool
	networks             bool
}

// Changes are the parts of the cluster that changed since they were last asked
// for. Keys are in no order.
type Changes struct {
	// Services came, went or changed; Endpoints have other usable endpoints.
	Services, Endpoints []lb.ServiceKey
	// Left are the Services, with their UID, that are no LoadBalancer any more
	// or do not exist any more, and carried something of ours when last seen.
	Left map[lb.ServiceKey]string
	// Config is set when the spec of an object that configures us changed, or the
	// Secret that a BGP peer names, and, for
	// [objects.Allocating] only, when a user asks to rebalance one. Pools is set when
	// anything of a pool changed ([objects.Allocating] only), Nodes when a Node did.
	Config, Pools, Nodes bool
	// Reports is set when a speaker says something else ([objects.Allocating] only).
	Reports bool
	// External is set when the externalIPs of some Service changed ([objects.Allocating]
	// only).
	External bool
	// Networks is set when those of cluster IPs changed ([objects.Allocating] only).
	Networks bool
}

// NewCluster prepares to watch a cluster. The log is told of kinds that cannot be read.
func NewCluster(core *CoreClient, own *OwnClient, scope objects.Scope, log *slog.Logger) *Cluster {
	c := &Cluster{
		core: core, own: own, scope: scope, log: log,
		signal:      make(chan struct{}, 1),
		synced:      make(chan struct{}),
		byService:   map[lb.ServiceKey]map[name]*objects.Slice{},
		endpoints:   map[lb.ServiceKey]lb.Endpoints{},
		stale:       map[lb.ServiceKey]struct{}{},
		staleConfig: true,
		staleNodes:  true,
	}
	c.changes.reset()
	c.services = register(c, vital, core.Services(""), onlyLoadBalancers, c.reduceService, c.serviceChanged)
	c.slices = register(c, vital, core.EndpointSlices(""), notHeadless, objects.ReadSlice, c.sliceChanged)
	c.nodes = register(c, vital, core.Nodes(), everything, scope.Node, c.nodeChanged)
	c.pools = register(c, vital, own.IPAddressPools(), everything, stripped, c.poolChanged)
	c.l2ads = register(c, optional, own.L2Advertisements(), everything, stripped, c.advertisementChanged)
	c.peers = register(c, optional, own.BGPPeers(), everything, stripped, specChanged[*v1beta1.BGPPeer](c))
	c.bgpads = register(c, optional, own.BGPAdvertisements(), everything, stripped, specChanged[*v1beta1.BGPAdvertisement](c))
	c.communities = register(c, optional, own.Communities(), everything, stripped, specChanged[*v1beta1.Community](c))
	c.profiles = register(c, optional, own.BFDProfiles(), everything, stripped, specChanged[*v1beta1.BFDProfile](c))
	c.namespaces, c.reports, c.secrets = empty(c, c.namespaceChanged), empty(c, c.reportChanged), empty(c, c.secretChanged)
	c.others, c.networks = empty(c, c.otherServiceChanged), empty(c, c.networkChanged)
	if scope.Role == objects.Allocating {
		c.namespaces = register(c, vital, core.Namespaces(), everything, func(n *corev1.Namespace) map[string]string { return n.Labels }, c.namespaceChanged)
		c.reports = register(c, optional, own.SpeakerStatuses(), everything, reduceReport, c.reportChanged)
		c.reporting = c.kinds[len(c.kinds)-1]
		c.others = register(c, optional, core.Services(""), otherServices, objects.ExternalIPs, c.otherServiceChanged)
		c.networks = register(c, incidental, core.ServiceCIDRs(), everything, reduceNetwork, c.networkChanged)
	}
	if scope.Namespace != "" {
		c.secrets = register(c, optional, core.Secrets(scope.Namespace), perhapsPasswords, scope.Secret, c.secretChanged)
	}
	c.judged = c.judgedKinds()
	return c
}

// as makes a table's reduction of a function for one API type.
func as[T, V any](reduce func(T) V) func(any) (V, error) {
	return func(o any) (v V, err error) {
		t, ok := o.(T)
		if !ok {
			return v, fmt.Errorf("unexpected type, want %T", t)
		}
		return reduce(t), nil
	}
}

// stripped drops the metadata that nothing reads.
func stripped[T metav1.Object](o T) T {
	o.SetManagedFields(nil)
	annotations := o.GetAnnotations()
	delete(annotations, corev1.LastAppliedConfigAnnotation)
	o.SetAnnotations(annotations)
	return o
}

// Run watches the cluster until ctx ends.
func (c *Cluster) Run(ctx context.Context) {
	var wg sync.WaitGroup
	for _, k := range c.kinds {
		wg.Go(func() { k.run(ctx) })
	}
	wg.Wait()
}

func everything(o metav1.ListOptions) metav1.ListOptions { return o }

// onlyLoadBalancers leaves out all other Services. One that ceases to be a
// LoadBalancer is reported as deleted.
func onlyLoadBalancers(o metav1.ListOptions) metav1.ListOptions {
	o.FieldSelector = "spec.type=" + string(corev1.ServiceTypeLoadBalancer)
	return o
}

// notHeadless leaves out the EndpointSlices that cannot concern us.
func notHeadless(o metav1.ListOptions) metav1.ListOptions {
	o.LabelSelector = discoveryv1.LabelServiceName + ",!" + corev1.IsHeadlessService
	return o
}

// Synced is closed once everything has been read for the first time.
func (c *Cluster) Synced() <-chan struct{} { return c.synced }

// Changed delivers when something has changed since it last delivered.
func (c *Cluster) Changed() <-chan struct{} { return c.signal }

// Unread returns the kinds that are still waited for, each with the reason why it
// cannot be read if there is one.
func (c *Cluster) Unread() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	var out []string
	for _, k := range c.kinds {
		switch {
		case k.read:
		case k.refusal == readable:
			out = append(out, k.resource)
		default:
			out = append(out, k.resource+" ("+k.refusal.String()+")")
		}
	}
	return out
}

// settle closes synced once no kind is waited for any more; mu is held.
func (c *Cluster) settle() {
	if !c.complete && !slices.ContainsFunc(c.kinds, func(k *mirrored) bool { return !k.read }) {
		c.complete = true
		close(c.synced)
	}
}

// notify wakes the one that waits on Changed.
func (c *Cluster) notify() {
	select {
	case c.signal <- struct{}{}:
	default:
	}
}

func (c *Cluster) reduceService(s *corev1.Service) *objects.Service {
	out := c.scope.Service(s)
	if out != nil {
		out.Seen = time.Now()
	} else if external := objects.ExternalIPs(s); c.scope.Role == objects.Allocating && external != nil {
		out = &objects.Service{ExternalOnly: true, External: external}
	}
	return out
}

// concerns reports whether there is a Service, and it is more than its externalIPs.
func concerns(s *objects.Service) bool { return s != nil && !s.ExternalOnly }

// ours returns the Service of a name if it concerns us, or nil.
func (c *Cluster) ours(n name) *objects.Service {
	if r := c.services.rows[n]; r != nil && concerns(r.value) {
		return r.value
	}
	return nil
}

func (c *Cluster) serviceChanged(was, is *row[*objects.Service]) {
	var old, now *objects.Service
	if was != nil {
		old = was.value
	}
	if is != nil {
		now = is.value
	}
	c.externalChanged(externalOf(old), externalOf(now))
	if !concerns(old) {
		old = nil
	}
	if !concerns(now) {
		now = nil
	}
	if old == nil && now == nil {
		return
	}
	var key lb.ServiceKey
	if old != nil {
		key = old.Key
	} else {
		key = now.Key
	}
	if is == nil && old.Marked && !old.Foreign {
		c.changes.left[key] = old.UID
	}
	if is != nil {
		delete(c.changes.left, key)
	}
	c.changes.services[key] = struct{}{}
	c.stale[key] = struct{}{}
	c.notify()
}

func (c *Cluster) sliceChanged(was, is *row[objects.Slice]) {
	if was != nil && is != nil && was.value.Equal(&is.value) {
		return
	}
	if was != nil {
		if of := c.byService[was.value.Service]; of != nil {
			delete(of, was.name)
			if len(of) == 0 {
				delete(c.byService, was.value.Service)
			}
		}
		c.sum(was.value.Service)
	}
	if is != nil {
		of := c.byService[is.value.Service]
		if of == nil {
			of = map[name]*objects.Slice{}
			c.byService[is.value.Service] = of
		}
		of[is.name] = &is.value
		c.sum(is.value.Service)
	}
}

// sum counts a Service's endpoints anew.
func (c *Cluster) sum(key lb.ServiceKey) {
	is := objects.SumSlices(slices.Collect(maps.Values(c.byService[key])))
	was := c.endpoints[key]
	if maps.Equal(is.IPv4, was.IPv4) && maps.Equal(is.IPv6, was.IPv6) {
		return
	}
	if len(is.IPv4)+len(is.IPv6) == 0 {
		delete(c.endpoints, key)
	} else {
		c.endpoints[key] = is
	}
	if c.ours(name{Namespace: key.Namespace, Name: key.Name}) == nil {
		return
	}
	c.changes.endpoints[key] = struct{}{}
	c.stale[key] = struct{}{}
	c.notify()
}

func equalNode(a, b lb.Node) bool {
	return a.Name == b.Name && a.NotReady == b.NotReady && a.NetworkUnavailable == b.NetworkUnavailable && a.Drain == b.Drain && a.Detection == b.Detection &&
		maps.Equal(a.Labels, b.Labels) && slices.Equal(a.Addresses, b.Addresses) && slices.Equal(a.PodNetworks, b.PodNetworks)
}

func (c *Cluster) nodeChanged(was, is *row[lb.Node]) {
	if was != nil && is != nil && equalNode(was.value, is.value) {
		return
	}
	c.changes.nodes, c.staleNodes = true, true
	c.notify()
}

func (c *Cluster) namespaceChanged(was, is *row[map[string]string]) {
	if is == nil || was != nil && maps.Equal(was.value, is.value) {
		return // its Services go before a namespace does
	}
	for n, s := range c.services.rows {
		if n.Namespace == is.name.Name && concerns(s.value) {
			c.changes.services[s.value.Key] = struct{}{}
			c.stale[s.value.Key] = struct{}{}
			c.notify()
		}
	}
}

// sameSpec reports whether an object differs in its status at most.
func sameSpec[T metav1.Object](was, is *row[T]) bool {
	return was != nil && is != nil && was.uid == is.uid &&
		was.value.GetGeneration() == is.value.GetGeneration() &&
		(was.value.GetDeletionTimestamp() == nil) == (is.value.GetDeletionTimestamp() == nil) &&
		maps.Equal(was.value.GetLabels(), is.value.GetLabels())
}

func specChanged[T metav1.Object](c *Cluster) func(was, is *row[T]) {
	return func(was, is *row[T]) {
		if !sameSpec(was, is) {
			c.changes.config, c.staleConfig = true, true
			c.notify()
		}
	}
}

func (c *Cluster) poolChanged(was, is *row[*v1beta1.IPAddressPool]) {
	specChanged[*v1beta1.IPAddressPool](c)(was, is)
	recorded := was == nil || is == nil || !slices.EqualFunc(was.value.Status.Orphans, is.value.Status.Orphans,
		func(a, b v1beta1.OrphanedAddress) bool { return a.Address == b.Address })
	if recorded { // whose an address is depends on it
		c.changes.config, c.staleConfig = true, true
		c.notify()
	}
	if c.scope.Role == objects.Allocating {
		c.changes.pools, c.staleConfig = true, true
		c.notify()
	}
}

func (c *Cluster) advertisementChanged(was, is *row[*v1beta1.L2Advertisement]) {
	specChanged[*v1beta1.L2Advertisement](c)(was, is)
	if c.scope.Role == objects.Allocating && was != nil && is != nil && objects.RebalanceToken(was.value.Annotations) != objects.RebalanceToken(is.value.Annotations) {
		c.changes.config = true
		c.notify()
	}
}

func (c *changes) reset() {
	*c = changes{
		services: map[lb.ServiceKey]struct{}{}, endpoints: map[lb.ServiceKey]struct{}{},
		left: map[lb.ServiceKey]string{},
	}
}

// Changes returns what has changed since the last call.
func (c *Cluster) Changes() Changes {
	c.mu.Lock()
	defer c.mu.Unlock()
	out := Changes{
		Services:  slices.Collect(maps.Keys(c.changes.services)),
		Endpoints: slices.Collect(maps.Keys(c.changes.endpoints)),
		Left:      c.changes.left,
		Config:    c.changes.config,
		Pools:     c.changes.pools,
		Nodes:     c.changes.nodes,
		Reports:   c.changes.reports,
		External:  c.changes.external,
		Networks:  c.changes.networks,
	}
	c.changes.reset()
	return out
}

// Everything returns Changes that name everything there is, for those who know
// nothing yet.
func (c *Cluster) Everything() Changes {
	c.mu.Lock()
	defer c.mu.Unlock()
	out := Changes{Left: c.changes.left, Config: true, Pools: true, Nodes: true, Reports: true, External: true, Networks: true}
	for s := range rows(c.services) {
		if concerns(s) {
			out.Services = append(out.Services, s.Key)
		}
	}
	c.changes.reset()
	return out
}

// Service returns a Service as it is now, and false when there is none that
// concerns us.
func (c *Cluster) Service(key lb.ServiceKey) (objects.Service, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.service(key)
}

// service completes a row with what other objects say about it.
func (c *Cluster) service(key lb.ServiceKey) (objects.Service, bool) {
	known := c.ours(name{Namespace: key.Namespace, Name: key.Name})
	if known == nil {
		return objects.Service{}, false
	}
	s := *known
	s.Endpoints = c.endpoints[key]
	if ns := c.namespaces.rows[name{Name: key.Namespace}]; ns != nil {
		s.NamespaceLabels = ns.value
	}
	return s, true
}

// Pool returns the API object of a pool.
func (c *Cluster) Pool(poolName string) (*v1beta1.IPAddressPool, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	r := c.pools.rows[name{Name: poolName}]
	if r == nil {
		return nil, false
	}
	return r.value, true
}

// Snapshot returns the whole as it is now. What has not changed since the last
// call is shared with its result.
func (c *Cluster) Snapshot() lb.Snapshot {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.whole()
}

// whole brings the snapshot up to date; mu is held.
func (c *Cluster) whole() lb.Snapshot {
	c.refresh()
	if len(c.stale) > 0 {
		c.snapshot.Services = c.mergeServices(c.snapshot.Services)
		clear(c.stale)
	}
	return c.snapshot
}

// Setting returns the whole without the Services, and what is wrong with the
// objects that configure it.
func (c *Cluster) Setting() (lb.Snapshot, []config.Finding) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.refresh()
	out := c.snapshot
	out.Services = nil
	return out, c.config.Findings
}

// refresh renews all of the snapshot but the Services.
func (c *Cluster) refresh() {
	if c.staleConfig {
		c.config = objects.Configure(&c.snapshot, config.Objects{
			Pools:            slices.Collect(rows(c.pools)),
			L2Advertisements: slices.Collect(rows(c.l2ads)),
			BGP:              c.bgpObjects(),
		})
		c.staleConfig = false
	}
	if c.staleNodes {
		c.snapshot.Nodes = slices.SortedFunc(rows(c.nodes), func(a, b lb.Node) int { return cmp.Compare(a.Name, b.Name) })
		c.staleNodes = false
	}
}

// mergeServices returns the sorted Services with the stale ones renewed.
func (c *Cluster) mergeServices(old []lb.Service) []lb.Service {
	keys := slices.SortedFunc(maps.Keys(c.stale), lb.ServiceKey.Compare)
	out := make([]lb.Service, 0, len(old)+len(keys))
	for _, k := range keys {
		n, found := slices.BinarySearchFunc(old, k, func(s lb.Service, k lb.ServiceKey) int { return s.Key.Compare(k) })
		out = append(out, old[:n]...)
		if found {
			n++
		}
		old = old[n:]
		if s, ok := c.service(k); ok {
			out = append(out, s.Service)
		}
	}
	return append(out, old...)
}

// rows yields the values of a table.
func rows[V any](t *table[V]) func(yield func(V) bool) {
	return func(yield func(V) bool) {
		for _, r := range t.rows {
			if !yield(r.value) {
				return
			}
		}
	}
}

// Age is how old what is known of some kind of objects may be: for how long it could
// not be read. It is 0 while all are watched.
func (c *Cluster) Age() time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	now, oldest := time.Now(), time.Duration(0)
	for _, k := range c.kinds {
		oldest = max(oldest, k.age(now))
	}
	return oldest
}
