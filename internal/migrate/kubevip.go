package migrate

import (
	"encoding/json"
	"maps"
	"slices"
	"strings"

	"github.com/belfrylb/belfry/api/v1beta1"
)

// kubeVIP is what kube-vip's cloud provider hands out addresses by. How kube-vip announces
// them is in the environment of its Pods, which is not read.
var kubeVIP = Source{
	Name: "kube-vip", Title: "kube-vip", Namespace: "kube-system", ConfigMap: "kubevip",
	configMap: (*Translation).kubeVIP,
	annotations: map[string]string{
		"kube-vip.io/loadbalancerIPs": "belfry.dev/loadBalancerIPs",
	},
}

// global is the part of a key that stands for all namespaces.
const global = "global"

// kubeVIP makes a pool of the addresses of each namespace. Those of a namespace go before
// those of all.
func (t *Translation) kubeVIP(c ConfigMap) {
	f := &fields{object: "ConfigMap/" + c.Name, path: "data", of: map[string]any{}, t: t}
	for key, v := range c.Data {
		var value any
		if json.Unmarshal(v, &value) == nil {
			f.of[key] = value
		}
	}
	pools := map[string]*v1beta1.IPAddressPool{}
	for _, key := range slices.Sorted(maps.Keys(f.of)) {
		kind, of, _ := strings.Cut(key, "-")
		if kind != "cidr" && kind != "range" || of == "" {
			continue
		}
		for span := range strings.SplitSeq(f.text(key), ",") {
			if span = strings.TrimSpace(span); span == "" {
				continue
			}
			if strings.HasPrefix(span, "0.0.0.0") {
				f.note(key, "0.0.0.0 stands for an address from DHCP, which Belfry does not ask for: it is left out")
				continue
			}
			p := pools[of]
			if p == nil {
				p = &v1beta1.IPAddressPool{}
				p.TypeMeta, p.ObjectMeta = t.meta("IPAddressPool", Metadata{Name: of})
				if of != global {
					p.Spec.ServiceAllocation = &v1beta1.ServiceAllocation{Priority: 1, Namespaces: []v1beta1.NamespaceName{v1beta1.NamespaceName(of)}}
				}
				pools[of] = p
			}
			p.Spec.Addresses = append(p.Spec.Addresses, v1beta1.AddressRange(f.span(key, span)))
		}
	}
	f.rest()
	for _, of := range slices.Sorted(maps.Keys(pools)) {
		t.Pools = append(t.Pools, pools[of])
	}
	if len(pools) > 0 {
		a := &v1beta1.L2Advertisement{}
		a.TypeMeta, a.ObjectMeta = t.meta("L2Advertisement", Metadata{Name: "kube-vip"})
		t.L2Advertisements = append(t.L2Advertisements, a)
		f.note("", "kube-vip announces by ARP or by BGP as the environment of its Pods says, which is not read: all is announced by layer 2; for BGP write a BGPPeer and a BGPAdvertisement instead")
	}
}
