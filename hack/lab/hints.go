package lab

import (
	"fmt"
)

// Hints says how to use a run by hand.
func (l *Lab) Hints() string {
	if l.run.options.ControlPlaneOnly {
		return fmt.Sprintf(`
kubectl:    %s --kubeconfig=%s get --raw /version
logs:       %s
end:        go run ./hack/lab/cmd/lab down --lab %s
`, l.run.programs["kubectl"], l.Cluster.AdminKubeconfig(), l.LogDir(), l.Name)
	}
	return fmt.Sprintf(`
kubectl:    alias k='nsenter --net=%s %s --kubeconfig=%s'; k get nodes -o wide
curl:       ip netns exec %s curl http://ADDRESS/
tcpdump:    ip netns exec %s tcpdump -ni eth0 arp or icmp6
any host:   ip netns list | grep %s
faults:     go run ./hack/lab/cmd/lab help
logs:       %s
end:        go run ./hack/lab/cmd/lab down --lab %s
`, l.run.netnsPath(ControlPlane), l.run.programs["kubectl"], l.Cluster.AdminKubeconfig(), l.Network.Netns(Client), l.Network.Netns(Client), l.Name, l.LogDir(), l.Name)
}
