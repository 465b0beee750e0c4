// The C boundary: arguments in, exceptions out as messages.
#include <algorithm>
#include <exception>
#include <new>
#include <stdexcept>
#include <string>
#include <vector>

#include "kernels.h"
#include "model.h"
#include "runner.h"
#include "slotwise.h"

using namespace slotwise;

struct sw_model : Model {
    using Model::Model;
};

struct sw_runner : Runner {
    using Runner::Runner;
};

namespace {

std::string& message() {
    thread_local std::string text;
    return text;
}

// The result of `call`, or `failed` with a message where it throws.
template <class T, class F>
T guarded(T failed, const F& call) {
    try {
        return call();
    } catch (const std::bad_alloc&) {
        message() = "the system refuses the memory";
    } catch (const std::exception& error) {
        message() = error.what();
    }
    return failed;
}

void require(bool condition, const char* problem) {
    if (!condition) throw std::invalid_argument(problem);
}

BlockLayout layout_of(const Model& model, int kv_type, int checks) {
    require(kv_type >= SW_KV_F32 && kv_type <= SW_KV_INT8, "there is no such type of KV cache");
    require(checks >= SW_CHECKS_OFF && checks <= SW_CHECKS_DEBUG, "there are no such checks");
    return {(KVType)kv_type, model.config.num_layers, model.config.num_kv_heads, model.config.head_dim,
            checks != SW_CHECKS_OFF};
}

}  // namespace

const char* sw_error() { return message().c_str(); }

const char* sw_instruction_sets() { return runnable_kernels(); }

sw_model* sw_model_new(const sw_config* config, const char* isa) {
    return guarded<sw_model*>(nullptr, [&] { return new sw_model(*config, isa); });
}

void sw_model_free(sw_model* model) { delete model; }

int sw_model_set(sw_model* model, int role, int layer, int expert, int encoding, int32_t rows, int32_t columns,
                 const void* data, int64_t num_bytes) {
    return guarded(-1, [&] {
        model->set(role, layer, expert, (Encoding)encoding, rows, columns, data, num_bytes);
        return 0;
    });
}

int sw_model_set_bias(sw_model* model, int role, int layer, int expert, int32_t rows, const float* data) {
    return guarded(-1, [&] {
        model->set_bias(role, layer, expert, rows, data);
        return 0;
    });
}

int sw_model_set_adapter(sw_model* model, int adapter, int role, int layer, int32_t rank, int32_t rows,
                         int32_t columns, const float* a, const float* b) {
    return guarded(-1, [&] {
        require(rank > 0 && rows > 0 && columns > 0, "an adapter's matrices have rows and columns");
        model->set_adapter(adapter, role, layer, LowRank(rank, rows, columns, a, b));
        return 0;
    });
}

int sw_quantize(int encoding, int64_t rows, int32_t columns, const float* values, void* out, int64_t num_bytes) {
    return guarded(-1, [&] {
        require(encoding >= SW_BF16 && encoding <= SW_Q4_1, "nothing is quantised into that encoding");
        require(num_bytes == rows * row_bytes((Encoding)encoding, columns), "there is another number of bytes to fill");
        quantize_rows((Encoding)encoding, rows, columns, values, static_cast<uint8_t*>(out));
        return 0;
    });
}

int64_t sw_model_bytes(sw_model* model) {
    return guarded<int64_t>(-1, [&] { return model->num_bytes(); });
}

int64_t sw_block_bytes(const sw_model* model, int kv_type, int checks) {
    return guarded<int64_t>(-1, [&] { return layout_of(*model, kv_type, checks).block_bytes(); });
}

sw_runner* sw_runner_new(const sw_model* model, const sw_runner_options* options) {
    return guarded<sw_runner*>(nullptr, [&] {
        layout_of(*model, options->kv_type, options->checks);
        model->num_bytes();  // throws where it is not complete
        require(options->num_blocks > 0 && options->num_threads > 0 && options->max_num_tokens > 0,
                "blocks, threads and tokens of a step are at least one each");
        return new sw_runner(*model, *options);
    });
}

void sw_runner_free(sw_runner* runner) { delete runner; }

int sw_step(sw_runner* runner, const sw_batch* batch, sw_result* results, float* logits) {
    return guarded(-1, [&] {
        runner->step(*batch, results, logits);
        return 0;
    });
}

int sw_violations(const sw_runner* runner, sw_violation* violations, int max) {
    const std::vector<sw_violation>& found = runner->isolation().violations();
    std::copy_n(found.begin(), std::min<size_t>(found.size(), std::max(max, 0)), violations);
    return (int)found.size();
}

int sw_misplace(sw_runner* runner, int32_t slot, int32_t index, int32_t block_id) {
    return guarded(-1, [&] {
        require(block_id >= 0 && block_id < runner->blocks().count(), "there is no such block");
        runner->slots().at(slot).block_ids.at(index) = block_id;
        return 0;
    });
}

const void* sw_block(const sw_runner* runner, int32_t block_id) {
    return guarded<const void*>(nullptr, [&] {
        require(block_id >= 0 && block_id < runner->blocks().count(), "there is no such block");
        return runner->blocks().at(block_id);
    });
}

int sw_profile(const sw_runner* runner, const char** names, int64_t* nanoseconds, int max) {
    for (int i = 0; i < NUM_PARTS && i < max; ++i) {
        names[i] = PART_NAMES[i];
        nanoseconds[i] = runner->profile().nanoseconds[i];
    }
    return NUM_PARTS;
}
