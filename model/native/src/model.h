// A model: dimensions, packed weights, and the kernels that they were packed for. Immutable once it is complete.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "adapters.h"
#include "kernels.h"
#include "matrix.h"
#include "slotwise.h"

namespace slotwise {

struct GatedMLP {
    PackedMatrix gate, up, down;
};

struct Layer {
    Vector attention_norm, q_norm, k_norm, mlp_norm;
    PackedMatrix q, k, v, o;
    bool is_moe = false;
    GatedMLP mlp;                   // of an ordinary layer
    PackedMatrix router;            // [X, E]
    std::vector<GatedMLP> experts;  // [X + S], the shared ones last
};

// Experts of a layer that has any, and of each token.
inline int32_t all_experts(const sw_config& c) { return c.num_experts + c.num_shared_experts; }
inline int32_t experts_of_token(const sw_config& c) { return c.num_experts_per_token + c.num_shared_experts; }

class Model {
public:
    // Throws std::invalid_argument where the dimensions cannot be run, or there are no kernels of that name.
    Model(const sw_config& config, const char* isa);

    // All three throw std::invalid_argument where the tensor is not one of this model's, or has another shape or size.
    void set(int role, int layer, int expert, Encoding encoding, int32_t rows, int32_t columns, const void* data,
             int64_t num_bytes);
    void set_bias(int role, int layer, int expert, int32_t rows, const float* data);

    void set_adapter(int adapter, int role, int layer, LowRank pair);

    // Throws std::invalid_argument naming a tensor that is not set.
    int64_t num_bytes() const;

    const PackedMatrix& head() const { return lm_head.is_set() ? lm_head : embedding; }

    sw_config config;
    std::vector<double> rope_inverse;
    const Kernels* kernels;
    PackedMatrix embedding, lm_head;
    Vector final_norm;
    std::vector<Layer> layers;
    std::vector<Adapter> adapters;  // number 1 is the first

private:
    struct Shape { int32_t rows, columns; };
    Layer& layer_at(int layer);
    GatedMLP& mlp_at(int layer, int expert);
    PackedMatrix* matrix_at(int role, int layer, int expert);
    Vector* vector_at(int role, int layer);
    Shape shape_of(int role, int layer) const;
};

}  // namespace slotwise
