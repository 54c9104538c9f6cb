package objects

// AnnotationRebalance on an L2Advertisement asks by any new value that its
// addresses be shared out evenly.
const AnnotationRebalance = "belfry.dev/rebalance"

// maxToken is how many characters of a request to rebalance count.
const maxToken = 64

// RebalanceToken returns the value of AnnotationRebalance as status records it.
func RebalanceToken(annotations map[string]string) string {
	if r := []rune(annotations[AnnotationRebalance]); len(r) > maxToken {
		return string(r[:maxToken])
	}
	return annotations[AnnotationRebalance]
}
