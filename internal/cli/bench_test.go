package cli

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"k8s.io/cli-runtime/pkg/genericiooptions"
)

// dumpOf is a dump of so many Services of both families, with an EndpointSlice of each,
// on ten nodes.
func dumpOf(services int) string {
	type object = map[string]any
	var items []object
	for n := range 10 {
		items = append(items, object{"apiVersion": "v1", "kind": "Node", "metadata": object{"name": fmt.Sprintf("n%d", n)}})
	}
	meta := func(name string) object { return object{"name": name, "namespace": "default", "uid": name} }
	items = append(
		items,
		object{"apiVersion": "belfry.dev/v1beta1", "kind": "IPAddressPool", "metadata": object{"name": "edge"}, "spec": object{"addresses": []string{"198.18.0.0/16", "2001:db8::/112"}}},
		object{"apiVersion": "belfry.dev/v1beta1", "kind": "L2Advertisement", "metadata": object{"name": "edge"}},
	)
	condition := func(name, message string) object {
		return object{"type": "belfry.dev/" + name, "status": "True", "reason": name, "message": message, "lastTransitionTime": "2026-03-01T12:00:00Z"}
	}
	answers := map[int][]string{}
	for i := range services {
		name := fmt.Sprintf("s%d", i)
		four, six := fmt.Sprintf("198.18.%d.%d", i/250, 1+i%250), fmt.Sprintf("2001:db8::%x", 1+i)
		node := i % 10
		answers[node] = append(answers[node], four, six)
		s := meta(name)
		s["creationTimestamp"] = "2026-02-01T12:00:00Z"
		items = append(items, object{
			"apiVersion": "v1", "kind": "Service", "metadata": s,
			"spec": object{"type": "LoadBalancer", "clusterIPs": []string{fmt.Sprintf("10.0.%d.%d", i/250, 1+i%250), fmt.Sprintf("fd00::%x", 1+i)}, "ipFamilyPolicy": "RequireDualStack", "ports": []object{{"port": 80, "protocol": "TCP"}}},
			"status": object{
				"loadBalancer": object{"ingress": []object{{"ip": four, "ipMode": "VIP"}, {"ip": six, "ipMode": "VIP"}}},
				"conditions": []object{
					condition("Allocated", four+" and "+six+" from pool edge"), condition("Announced", "announced by layer 2"),
					condition("Recorded", four+" from edge, "+six+" from edge"), condition("Placed", fmt.Sprintf("%s on n%d, %s on n%d", four, node, six, node)),
				},
			},
		})
		for _, family := range []string{"IPv4", "IPv6"} {
			e := meta(name + "-" + strings.ToLower(family))
			e["labels"] = object{"kubernetes.io/service-name": name}
			items = append(items, object{
				"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "metadata": e, "addressType": family,
				"endpoints": []object{{"addresses": []string{"10.1.0.1"}, "nodeName": fmt.Sprintf("n%d", node), "conditions": object{"ready": true}}},
			})
		}
	}
	for n := range 10 {
		items = append(items, object{
			"apiVersion": "belfry.dev/v1beta1", "kind": "SpeakerStatus", "metadata": object{"name": fmt.Sprintf("n%d", n), "resourceVersion": fmt.Sprint(100 + n)},
			"status": object{
				"phase": "Running", "version": "v1", "interfaces": []object{{"name": "eth0", "carrier": true, "usable": true, "subnets": []string{"198.18.0.0/15", "2001:db8::/64"}}},
				"layer2": object{"total": len(answers[n]), "answers": []object{{"interfaces": []string{"eth0"}, "addresses": answers[n]}}},
			},
		})
	}
	text, err := json.Marshal(object{"apiVersion": "v1", "kind": "List", "items": items})
	if err != nil {
		panic(err)
	}
	return string(text)
}

// What each command takes on 3,000 Services with 6,000 addresses.
func BenchmarkCommands(b *testing.B) {
	dump := dumpOf(3000)
	for _, command := range []string{"status", "explain default/s77", "plan lose n1"} {
		b.Run(strings.Fields(command)[0], func(b *testing.B) {
			for b.Loop() {
				var out bytes.Buffer
				code := Run(b.Context(), append(strings.Fields(command), "--from", "-"), genericiooptions.IOStreams{In: strings.NewReader(dump), Out: &out, ErrOut: &out}, false, "test")
				if code == CannotLook {
					b.Fatalf("%s ends with %d:\n%.2000s", command, code, out.String())
				}
			}
		})
	}
}
