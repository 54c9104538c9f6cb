package cli

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/dynamic"
	"sigs.k8s.io/yaml"

	"github.com/belfrylb/belfry/api/v1beta1"
	"github.com/belfrylb/belfry/internal/config"
	"github.com/belfrylb/belfry/internal/lb"
	"github.com/belfrylb/belfry/internal/ranges"
	"github.com/belfrylb/belfry/internal/world"
)

// A verdict is what a check finds.
type verdict string

// Verdicts.
const (
	good    verdict = "ok"
	warning verdict = "warning"
	bad     verdict = "problem"
	unknown verdict = "not known"
)

// A check is one thing that was looked at.
type check struct {
	Section string  `json:"section"`
	What    string  `json:"what"`
	Verdict verdict `json:"verdict"`
	// Hint says what to do about it, and Link where to read on.
	Hint string `json:"hint,omitempty"`
	Link string `json:"link,omitempty"`
}

// docs is where links lead to.
const docs = "https://github.com/belfrylb/belfry/blob/main/docs/"

func (t *tool) doctor() *cobra.Command {
	var pre bool
	c := t.outputs(&cobra.Command{
		Use:   "doctor",
		Short: "Check versions, rights, other announcers, ranges, kube-proxy, gossip, clocks and what speakers complain of",
		Long: `Doctor looks for what commonly keeps addresses from working: versions, CPU limits, other announcers,
kube-proxy's mode, ranges, port 7870 between every pair of nodes, packet sockets, rights, clocks, and
what speakers complain of. Each finding comes with a hint. What it cannot find out it says, too: it is
marked ??, and is no problem. Of a dump it looks at neither rights nor clocks.

With --pre it looks at a cluster where Belfry is not installed yet.`,
		Example: `  kubectl belfry doctor
  kubectl belfry doctor --pre`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			checks, err := t.examine(c.Context(), pre)
			if err != nil {
				return err
			}
			if err := t.print(checks, func(p *page) { printChecks(p, checks) }); err != nil {
				return err
			}
			if slices.ContainsFunc(checks, func(c check) bool { return c.Verdict == bad }) {
				return errProblems
			}
			return nil
		},
	}, "json", "yaml")
	c.Flags().BoolVar(&pre, "pre", false, "before the installation: look at the cluster alone")
	return c
}

// examine makes all checks.
func (t *tool) examine(ctx context.Context, pre bool) ([]check, error) {
	s, now, err := t.read(ctx, func(k kind) bool { return checkedKinds(k) && (!pre || k.Group != belfry.Group) })
	if err != nil {
		return nil, err
	}
	w := s.world(t.settings, now)
	out := slices.Concat(announcers(s, w.Settings.Namespace), proxy(s), overlaps(w))
	if !pre {
		out = slices.Concat(installed(s, w), out, gossip(w), interfaces(s), neighbors(s, w), complaints(w))
	}
	if !t.dump() {
		client, err := t.client()
		if err != nil {
			return nil, err
		}
		rights, err := rights(ctx, client, w.Settings.Namespace, pre)
		if err != nil {
			return nil, err
		}
		out = append(out, rights...)
		clocks, err := t.clocks(ctx, s)
		if err != nil {
			return nil, err
		}
		out = append(out, clocks...)
	}
	for _, u := range s.unread {
		out = append(out, check{"Rights", "read " + u, unknown, "what depends on it was not checked", ""})
	}
	return out, nil
}

// installed looks at the versions and limits of what is installed.
func installed(s *store, w *world.World) (out []check) {
	const section = "Installation"
	versions := map[string]bool{}
	image := func(name string, containers []corev1.Container) {
		for _, c := range containers {
			_, tag, _ := strings.Cut(c.Image[strings.LastIndex(c.Image, "/")+1:], ":")
			if digest := strings.Index(tag, "@"); digest >= 0 {
				tag = tag[:digest]
			}
			versions[cmp.Or(tag, c.Image)] = true
			if limit, has := c.Resources.Limits[corev1.ResourceCPU]; has {
				out = append(out, check{
					section, fmt.Sprintf("%s has a CPU limit of %s", name, limit.String()), bad,
					"a process that is throttled is silent for tens of milliseconds, and others take over from it: remove the limit", docs + "how-to/install.md",
				})
			}
		}
	}
	found := false
	for _, d := range s.daemonSets {
		if d.Namespace != w.Settings.Namespace || d.Labels["app.kubernetes.io/component"] != "speaker" && d.Name != "belfry-speaker" {
			continue
		}
		found = true
		image("the speaker", d.Spec.Template.Spec.Containers)
		if n := d.Status.DesiredNumberScheduled - d.Status.NumberReady; n > 0 {
			out = append(out, check{
				section, fmt.Sprintf("%d of %d speakers are not ready", n, d.Status.DesiredNumberScheduled), bad,
				"kubectl -n " + d.Namespace + " get pods -l app.kubernetes.io/component=speaker -o wide", "",
			})
		}
	}
	for _, d := range s.deployments {
		if d.Namespace == w.Settings.Namespace && (d.Labels["app.kubernetes.io/component"] == "controller" || d.Name == "belfry-controller") {
			image("the controller", d.Spec.Template.Spec.Containers)
			if d.Status.ReadyReplicas == 0 {
				out = append(out, check{section, "no controller is ready", bad, "kubectl -n " + d.Namespace + " get pods -l app.kubernetes.io/component=controller", ""})
			}
		}
	}
	switch {
	case !found:
		out = append(out, check{section, "there is no DaemonSet of speakers in namespace " + w.Settings.Namespace, bad, "say where Belfry is installed: --belfry-namespace", docs + "how-to/install.md"})
	case len(versions) > 1:
		out = append(out, check{section, "controller and speakers are of versions " + strings.Join(slices.Sorted(maps.Keys(versions)), ", "), warning, "during an upgrade that is so; afterwards it is not", docs + "how-to/install.md"})
	}
	if len(out) == 0 {
		out = append(out, check{section, "controller and speakers are ready, of one version, and without CPU limits", good, "", ""})
	}
	return out
}

// An announcer is another program that answers for addresses, or gives them out.
type announcer struct {
	name string
	// image is a part of the name of its image, and argument one that its containers
	// have when it announces; empty for always.
	image, argument string
	hint            string
}

// others are those that are known.
var others = []announcer{
	{"MetalLB", "metallb/", "", "both would serve the same Services: remove one, or give each its loadBalancerClass"},
	{"kube-vip", "kube-vip", "", "it is fine for the control plane's address; for Services (svc_enable) give each its loadBalancerClass"},
	{"ServiceLB (klipper-lb)", "klipper-lb", "", "disable it: k3s server --disable servicelb"},
	{"PureLB", "purelb/", "", "both would serve the same Services: remove one, or give each its loadBalancerClass"},
	{"OpenELB", "openelb", "", "both would serve the same Services: remove one, or give each its loadBalancerClass"},
	{"Calico", "calico/node", "", "if it announces Services by BGP (serviceLoadBalancerIPs), take the pools' ranges out there; two BGP speakers of one node need different ports or routers"},
}

// announcers looks for other announcers.
func announcers(s *store, namespace string) (out []check) {
	const section = "Other announcers"
	type workload struct {
		kind, namespace, name string
		containers            []corev1.Container
	}
	var all []workload
	for _, d := range s.daemonSets {
		all = append(all, workload{"daemonset", d.Namespace, d.Name, d.Spec.Template.Spec.Containers})
	}
	for _, d := range s.deployments {
		all = append(all, workload{"deployment", d.Namespace, d.Name, d.Spec.Template.Spec.Containers})
	}
	for _, other := range others {
		for _, w := range all {
			if w.namespace != namespace && slices.ContainsFunc(w.containers, func(c corev1.Container) bool { return strings.Contains(c.Image, other.image) }) {
				out = append(out, check{section, fmt.Sprintf("%s runs (%s %s/%s)", other.name, w.kind, w.namespace, w.name), warning, other.hint, docs + "how-to/install.md"})
				break
			}
		}
	}
	for _, c := range s.configMaps {
		if c.Name != "cilium-config" {
			continue
		}
		for _, key := range ciliumAnnounces {
			if c.Data[key] == "true" {
				out = append(out, check{section, "Cilium has " + key, warning, "it would announce the same Services where its policies select them: select none that Belfry serves", ""})
			}
		}
		if c.Data[ciliumReplacesProxy] == "true" {
			out = append(out, check{section, "Cilium replaces kube-proxy", good, "", ""})
		}
	}
	if len(out) == 0 {
		out = append(out, check{section, "none is known to run", good, "", ""})
	}
	return out
}

// proxyConfig is where the ConfigMap of kube-proxy has its configuration.
const proxyConfig = "config.conf"

// examined are the ConfigMaps that are looked at, with the keys that are read.
var examined = map[string][]string{
	"kube-proxy":    {proxyConfig},
	"cilium-config": append([]string{ciliumReplacesProxy}, ciliumAnnounces...),
}

// What Cilium's configuration says.
const ciliumReplacesProxy = "kube-proxy-replacement"

var ciliumAnnounces = []string{"enable-l2-announcements", "enable-bgp-control-plane"}

// A proxySettings is kube-proxy's configuration as far as it is read.
type proxySettings struct {
	Mode string `json:"mode"`
	IPVS struct {
		StrictARP bool `json:"strictARP"`
	} `json:"ipvs"`
}

func readProxyConfig(text string) (is proxySettings, err error) {
	err = yaml.Unmarshal([]byte(text), &is)
	return is, err
}

// proxy looks at the mode of kube-proxy.
func proxy(s *store) (out []check) {
	const section = "kube-proxy"
	i := slices.IndexFunc(s.configMaps, func(c *corev1.ConfigMap) bool { return c.Namespace == metav1.NamespaceSystem && c.Name == "kube-proxy" })
	if i < 0 {
		return []check{{section, "its ConfigMap was not found", unknown, "in mode ipvs it needs strictARP: true", docs + "how-to/install.md"}}
	}
	settings, err := readProxyConfig(s.configMaps[i].Data[proxyConfig])
	if err != nil {
		return []check{{section, "its configuration cannot be read: " + err.Error(), unknown, "", ""}}
	}
	switch mode := cmp.Or(settings.Mode, "iptables"); {
	case mode == "ipvs" && !settings.IPVS.StrictARP:
		return []check{{section, "mode ipvs without strictARP", bad, "every node has the addresses on kube-ipvs0 and answers ARP for them: set ipvs.strictARP to true", docs + "how-to/install.md"}}
	case mode == "ipvs":
		return []check{{section, "mode ipvs with strictARP", good, "", ""}}
	default:
		return []check{{section, "mode " + mode, good, "", ""}}
	}
}

// overlaps looks for pools that overlap the cluster's own networks.
func overlaps(w *world.World) (out []check) {
	const section = "Ranges"
	for _, pool := range slices.Sorted(maps.Keys(w.Clashes)) {
		for _, p := range w.Clashes[pool] {
			out = append(out, check{section, "pool " + pool + ": " + p.String(), bad, "take them out by excludeAddresses", docs + "reference/ipaddresspool.md"})
		}
	}
	for _, v := range w.Findings {
		if i := slices.IndexFunc(v.Problems, func(p config.Problem) bool { return p.Reason == "Overlaps" }); i >= 0 {
			out = append(out, check{section, "pool " + v.Name + ": " + v.Problems[i].String(), warning, "let each address belong to one pool", docs + "reference/ipaddresspool.md"})
		}
	}
	if len(out) == 0 {
		out = append(out, check{section, "no pool overlaps another, or addresses of Nodes, Pods or Services", good, "", ""})
	}
	return out
}

// gossip looks for nodes between which port 7870 is blocked.
func gossip(w *world.World) (out []check) {
	const section = "Gossip"
	speakers, gaps := w.Gossip()
	for _, g := range gaps {
		out = append(out, check{section, g.String(), bad, "open UDP and TCP 7870 between all nodes, in both directions", docs + "how-to/gossip-blocked.md"})
	}
	switch {
	case speakers < 2:
		out = append(out, check{section, fmt.Sprintf("%d %s, so there is no pair of nodes to look at", speakers, map[bool]string{true: "speaker reports", false: "speakers report"}[speakers == 1]), unknown, "", ""})
	case len(gaps) == 0:
		out = append(out, check{section, fmt.Sprintf("UDP and TCP 7870 get through between all pairs of %d speakers", speakers), good, "", ""})
	}
	return out
}

// interfaces looks for nodes whose kernel does not let the speaker do its work.
func interfaces(s *store) (out []check) {
	const section = "Kernels"
	for _, o := range slices.SortedFunc(slices.Values(s.objects.Speakers), func(a, b *v1beta1.SpeakerStatus) int { return cmp.Compare(a.Name, b.Name) }) {
		for _, i := range o.Status.Interfaces {
			if i.Reason == lb.InterfaceSealed.String() {
				out = append(out, check{
					section, fmt.Sprintf("%s: the speaker may open no packet socket on %s", o.Name, i.Name), bad,
					"give its container the capability NET_RAW, and see that no security policy of the node takes it away", docs + "concepts/security.md",
				})
				break // it is the process that may not
			}
		}
	}
	if len(out) == 0 && len(s.objects.Speakers) > 0 {
		out = append(out, check{section, "speakers may open packet sockets on all nodes that report", good, "", ""})
	}
	return out
}

// neighbors looks for pools in subnets of nodes, where a DHCP server may hand out the same
// addresses. Nothing tells us its ranges.
func neighbors(s *store, w *world.World) (out []check) {
	const section = "Other hosts"
	subnets := map[string]map[netip.Prefix]bool{}
	for _, o := range s.objects.Speakers {
		for _, i := range o.Status.Interfaces {
			for _, text := range i.Subnets {
				subnet, err := netip.ParsePrefix(text)
				if err != nil || !i.Usable {
					continue
				}
				for _, p := range w.Snapshot.Pools {
					if len(ranges.Intersect([]lb.AddressRange{ranges.Of(subnet.Masked())}, p.Ranges)) > 0 {
						if subnets[p.Name] == nil {
							subnets[p.Name] = map[netip.Prefix]bool{}
						}
						subnets[p.Name][subnet.Masked()] = true
					}
				}
			}
		}
	}
	for _, pool := range slices.Sorted(maps.Keys(subnets)) {
		var names []string
		for _, subnet := range slices.SortedFunc(maps.Keys(subnets[pool]), func(a, b netip.Prefix) int {
			return cmp.Or(a.Addr().Compare(b.Addr()), cmp.Compare(a.Bits(), b.Bits()))
		}) {
			names = append(names, subnet.String())
		}
		out = append(out, check{
			section, fmt.Sprintf("whether a DHCP server of %s hands out addresses of pool %s", strings.Join(names, " or "), pool), unknown,
			"see that its ranges have none of the pool's; an address that another host uses is withheld, and reported", docs + "how-to/troubleshooting.md",
		})
	}
	return out
}

// complaints are the problems of the status.
func complaints(w *world.World) (out []check) {
	const section = "What is reported"
	for _, p := range w.Status().Problems {
		if !strings.HasPrefix(p.Object, "ipaddresspool/") && !p.Gossip { // see overlaps, and gossip
			out = append(out, check{section, p.Object + ": " + p.Message, bad, p.Command, ""})
		}
	}
	if len(out) == 0 {
		out = append(out, check{section, "no problems", good, "", ""})
	}
	return out
}

// A right is one that an account of ours needs.
type right struct{ account, verb, group, resource, subresource string }

var needed = []right{
	{"belfry-controller", "watch", "", "services", ""},
	{"belfry-controller", "patch", "", "services", "status"},
	{"belfry-controller", "watch", "", "nodes", ""},
	{"belfry-controller", "watch", "discovery.k8s.io", "endpointslices", ""},
	{"belfry-controller", "watch", "belfry.dev", "ipaddresspools", ""},
	{"belfry-controller", "patch", "belfry.dev", "ipaddresspools", "status"},
	{"belfry-controller", "watch", "belfry.dev", "speakerstatuses", ""},
	{"belfry-speaker", "watch", "", "services", ""},
	{"belfry-speaker", "watch", "", "nodes", ""},
	{"belfry-speaker", "watch", "discovery.k8s.io", "endpointslices", ""},
	{"belfry-speaker", "watch", "belfry.dev", "l2advertisements", ""},
	{"belfry-speaker", "patch", "belfry.dev", "speakerstatuses", "status"},
}

// rights asks the API server what our accounts may.
func rights(ctx context.Context, client dynamic.Interface, namespace string, pre bool) (out []check, err error) {
	const section = "Rights"
	if pre {
		return nil, nil
	}
	reviews := client.Resource(authorizationv1.SchemeGroupVersion.WithResource("subjectaccessreviews"))
	for _, r := range needed {
		review := &authorizationv1.SubjectAccessReview{
			TypeMeta: metav1.TypeMeta{APIVersion: authorizationv1.SchemeGroupVersion.String(), Kind: "SubjectAccessReview"},
			Spec: authorizationv1.SubjectAccessReviewSpec{
				User:   "system:serviceaccount:" + namespace + ":" + r.account,
				Groups: []string{"system:serviceaccounts", "system:serviceaccounts:" + namespace, "system:authenticated"},
				ResourceAttributes: &authorizationv1.ResourceAttributes{
					Verb: r.verb, Group: r.group, Resource: r.resource, Subresource: r.subresource,
				},
			},
		}
		body, err := runtime.DefaultUnstructuredConverter.ToUnstructured(review)
		if err != nil {
			return nil, err
		}
		answer, err := reviews.Create(ctx, &unstructured.Unstructured{Object: body}, metav1.CreateOptions{})
		if err != nil {
			return []check{{section, "rights cannot be asked for: " + err.Error(), unknown, "kubectl auth can-i create subjectaccessreviews", ""}}, nil
		}
		what := r.verb + " " + strings.TrimSuffix(r.resource+"/"+r.subresource, "/")
		if allowed, _, _ := unstructured.NestedBool(answer.Object, "status", "allowed"); !allowed {
			out = append(out, check{section, r.account + " may not " + what, bad, "apply the ClusterRole " + r.account + " of the release again", docs + "how-to/install.md"})
		}
	}
	if len(out) == 0 {
		out = append(out, check{section, "controller and speakers may do what they need", good, "", ""})
	}
	return out, nil
}

// marks are how the verdicts are shown.
var marks = map[verdict]struct {
	mark string
	color
}{good: {"ok", green}, warning: {"!!", yellow}, bad: {"XX", red}, unknown: {"??", yellow}}

func printChecks(p *page, checks []check) {
	section := ""
	for _, c := range checks {
		if c.Section != section {
			if section != "" {
				p.line("")
			}
			p.head(c.Section)
			section = c.Section
		}
		for i, l := range wrap(c.What, width-5) {
			mark := marks[c.Verdict].mark
			if i > 0 {
				mark = "    "
			}
			p.line("  %s", p.paint(marks[c.Verdict].color, mark+" "+l))
		}
		if c.Hint != "" {
			p.wrapped(5, c.Hint)
		}
		if c.Link != "" && c.Verdict != good {
			p.line("     %s", p.paint(faint, c.Link))
		}
	}
}
